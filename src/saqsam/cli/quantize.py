"""``saqsam quantize``: a float model and a folder of images become one packed file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from saqsam.cli.arguments import (
    BitsOption,
    DeviceOption,
    ForceOption,
    ImagesOption,
    JsonOption,
    Model,
    SetOption,
    check_directory,
    check_file,
    check_output,
    check_prompts,
)
from saqsam.cli.output import megabytes, print_json, print_lines
from saqsam.cli.progress import progress
from saqsam.errors import UsageError
from saqsam.recipe import load_recipe


def quantize(
    model: Model,
    images: ImagesOption,
    out: Annotated[Path, typer.Option("--out", help="File to write, *.safetensors.", metavar="FILE")],
    recipe: Annotated[
        str, typer.Option("--recipe", help="A shipped recipe, name-wXaY, or a YAML file.", metavar="NAME")
    ] = "saq-sam-star",
    bits: BitsOption = None,
    settings: SetOption = None,
    annotations: Annotated[
        Path | None, typer.Option("--annotations", help="COCO instances json.", metavar="FILE")
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            "--prompts",
            help="boxes or points (from --annotations), or a COCO-results detections json.",
            metavar="boxes|points|FILE",
        ),
    ] = None,
    device: DeviceOption = "cpu",
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Quantize MODEL on calibration images, audit it, and pack it into one file."""
    chosen = load_recipe(recipe, bits=bits, settings=settings or ())
    check_directory(images, "--images")
    if annotations is not None:
        check_file(annotations, "--annotations")
    asked = check_prompts(prompts) if prompts is not None else ("boxes" if annotations else None)
    if asked is not None and annotations is None:
        raise UsageError(f"--prompts {prompts}: needs --annotations FILE, which says what each image holds")
    if out.suffix != ".safetensors":
        raise UsageError(f"--out {out}: a packed file's name ends in .safetensors")
    check_output(out, "--out", force)

    from saqsam import api

    started = time.perf_counter()
    with progress() as report:
        quantized = api.quantize(
            api.load(model, device=device),
            chosen,
            images,
            annotations=annotations,
            prompts=asked,
            progress=report,
        )
        quantized.save(out)
    record = quantized.inspect()
    result = {
        "model": model,
        "recipe": chosen.name,
        "recipe_hash": chosen.recipe_hash,
        "bits": quantized.bits,
        "out": str(out),
        "file_bytes": out.stat().st_size,
        "float_bytes": record["float_bytes"],
        "sites": len(record["sites"]),
        "seconds": round(time.perf_counter() - started, 3),
    }
    if json:
        print_json(result)
        return
    print_lines(
        [
            f"{out}: {megabytes(result['file_bytes'])}, float {megabytes(result['float_bytes'])}",
            f"{chosen.name} {quantized.bits}, {result['sites']} quantized sites, audit passed, "
            f"{result['seconds']:.1f} s",
        ]
    )
