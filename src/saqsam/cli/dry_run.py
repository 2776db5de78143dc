"""``saqsam quantize --dry-run``: what a quantization will take, in words."""

from __future__ import annotations

from pathlib import Path

from saqsam.cli.output import megabytes, print_json, print_table
from saqsam.cli.progress import progress
from saqsam.recipe import Recipe
from saqsam.reconstruct.durations import in_words


def say_dry_run(
    model: str,
    recipe: Recipe,
    images: Path,
    annotations: Path | None,
    prompts: str | Path | None,
    device: str,
    json: bool,
    on_error: str,
    exif: str,
) -> None:
    """Try one picture, and print what all will take. Arguments as of ``quantize``."""
    from saqsam import api

    with progress() as report:
        sam = api.load(model, device=device)
        planned = api.dry_run(sam, recipe, images, annotations, prompts, report, on_error, exif)
    if json:
        print_json({"model": model, **planned.to_dict()})
        return
    stages = sorted(planned.seconds.items(), key=lambda item: -item[1])
    longest = ", ".join(f"{stage} {in_words(took)}" for stage, took in stages[:3])
    rows = [
        ["pictures", f"{planned.images}, {planned.prompts} prompts"],
        ["sites", f"{planned.sites} quantized, {planned.float_sites} left float"],
        ["passes", f"{planned.encoder_passes} of the image encoder, and {planned.steps} learning steps"],
        ["time", f"roughly {in_words(sum(planned.seconds.values()))} ({longest})"],
        ["memory", f"up to {planned.memory_bytes / 1e9:.2f} GB"],
        ["packed file", f"about {megabytes(planned.file_bytes)}"],
        ["run directory", f"up to {megabytes(planned.run_bytes)}, if --run is given"],
    ]
    print_table(
        f"{planned.recipe} {planned.bits} of {model}: what it will take", ["", "about"], rows, right=2
    )
