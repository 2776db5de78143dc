"""``saqsam quantize``: a float model and a folder of images become one packed file."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from saqsam.cli.arguments import PROMPT_WORDS, DeviceOption, JsonOption, Model, check_on_error
from saqsam.cli.dry_run import say_dry_run
from saqsam.cli.finished import note_finished
from saqsam.cli.grouped import grouped
from saqsam.cli.output import megabytes, print_json, print_left_out, print_lines
from saqsam.cli.progress import progress
from saqsam.cli.quantize_options import CalibrationOptions, RecipeOptions, WrittenOptions
from saqsam.errors import ImageError, UsageError
from saqsam.recipe import Recipe


@grouped
def quantize(
    model: Model,
    on: CalibrationOptions,
    how: RecipeOptions,
    written: WrittenOptions,
    device: DeviceOption = "cpu",
    json: JsonOption = False,
) -> None:
    """Quantize MODEL on calibration images, audit it, and pack it into one file."""
    recipe, asked = how.chosen(), on.checked_prompts()
    if written.dry:
        say_dry_run(model, recipe, on.images, on.annotations, asked, device, json, on.on_error, on.exif)
        return
    out = written.checked_out()
    command = Command(
        model=model,
        recipe=recipe.to_dict(),
        images=str(on.images.absolute()),
        annotations=None if on.annotations is None else str(on.annotations.absolute()),
        prompts=asked if asked in (None, *PROMPT_WORDS) else str(Path(str(asked)).absolute()),
        out=str(out),
        device=device,
        cache_gb=written.cache_gb,
        on_error=on.on_error,
        exif=on.exif,
    )
    if written.run is not None:
        begin_run(written.run, command)
    carry_out(command, written.run, json=json)


@dataclass(frozen=True)
class Command:
    """What ``quantize`` was asked for, in plain JSON types; ``resume`` reads it from the run directory.

    Attributes:
        model: as on the command line, a file as an absolute path.
        recipe: all keys.
        images, annotations: absolute paths.
        prompts: ``boxes``, ``points``, the absolute path of detections, or ``None``.
        out: the packed file to write.
        device: torch device.
        cache_gb: GB of activations in memory; ``None`` for all. Older runs do not have it.
        on_error: what becomes of bad entries of annotations and detections. Older runs do not have it.
        exif: frame of the annotations. Older runs do not have it.
    """

    model: str
    recipe: dict[str, Any]
    images: str
    annotations: str | None
    prompts: str | None
    out: str
    device: str
    cache_gb: float | None = None
    on_error: str = "stop"
    exif: str = "auto"


def begin_run(run: Path, command: Command) -> None:
    """Note the command in a new run directory; what an existing one holds is left as it is.

    Raises:
        UsageError: the directory cannot be made.
    """
    from saqsam.checkpoints.options import split_options
    from saqsam.jobs.directory import COMMAND, write_json

    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        return  # continued, or refused, when it is opened
    if not run.parent.is_dir():
        raise UsageError(f"--run {run}: there is no directory {run.parent}; create it first")
    named = str(split_options(command.model)[0])
    path, options = Path(named), command.model[len(named) :]
    model = f"{path.absolute()}{options}" if path.exists() else command.model
    out = str(Path(command.out).absolute())
    run.mkdir(exist_ok=True)
    write_json(run / COMMAND, asdict(replace(command, model=model, out=out)))


def carry_out(command: Command, run: Path | None, *, json: bool) -> None:
    """Quantize, pack, and say what came of it."""
    from saqsam import api

    out, chosen = Path(command.out), Recipe.from_dict(command.recipe)
    started = time.perf_counter()
    bad = check_on_error(command.on_error)
    with progress() as report:
        sam = api.load(command.model, device=command.device)
        try:
            quantized = api.quantize(
                sam,
                chosen,
                command.images,
                annotations=command.annotations,
                prompts=command.prompts,
                progress=report,
                run_dir=run,
                cache_gb=command.cache_gb,
                listener=report.heard,
                on_error=bad,
                exif=command.exif,
            )
        except ImageError as error:
            hint = (
                "calibration stops here, since other images give other ranges: mend or remove this one, or "
                "add --on-error skip to draw another"
            )
            raise ImageError(error.path, f"{error.reason}; {hint}") from error
        quantized.save(out)
    if run is not None:
        note_finished(run, out, quantized)
    record = quantized.inspect()
    constant = constant_sites(record["records"])
    result = {
        "model": command.model,
        "recipe": chosen.name,
        "recipe_hash": chosen.recipe_hash,
        "bits": quantized.bits,
        "out": str(out),
        "file_bytes": out.stat().st_size,
        "float_bytes": record["float_bytes"],
        "sites": len(record["sites"]),
        "constant_sites": constant,
        "calibration": None if quantized.log is None else quantized.log.calibration.to_dict(),
        "left_out": [asdict(one) for one in bad.left_out],
        "seconds": round(time.perf_counter() - started, 3),
        "notes": [] if quantized.log is None else list(quantized.log.calibration.notes),
    }
    if json:
        print_json(result)
        return
    warnings = []
    if constant:
        warnings.append(
            f"warning: {len(constant)} sites held one single value on all calibration images, the first is "
            f"{constant[0]}; are the images blank?"
        )
    seen = [] if quantized.log is None else quantized.log.calibration.lines()
    print_lines(
        [
            *warnings,
            f"{out}: {megabytes(result['file_bytes'])}, float {megabytes(result['float_bytes'])}",
            f"{chosen.name} {quantized.bits}, {result['sites']} quantized sites, audit passed, "
            f"{result['seconds']:.1f} s",
            *seen,
        ]
    )
    print_left_out((), bad.left_out)


def constant_sites(records: Mapping[str, Any]) -> list[str]:
    """Names of the sites at which calibration saw one single value; their ranges mean nothing."""
    return [site for site, seen in records["ranges"].items() if seen["low"] == seen["high"]]
