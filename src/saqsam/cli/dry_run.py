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
        found = api.dry_run(sam, recipe, images, annotations, prompts, report, on_error, exif)
    if json:
        print_json({"model": model, **found.to_dict()})
        return
    stages = sorted(found.seconds.items(), key=lambda item: -item[1])
    longest = ", ".join(f"{stage} {in_words(took)}" for stage, took in stages[:3])
    rows = [
        ["pictures", f"{found.images}, {found.prompts} prompts"],
        ["sites", f"{found.sites} quantized, {found.float_sites} left float"],
        ["passes", f"{found.encoder_passes} of the image encoder, and {found.steps} learning steps"],
        ["time", f"roughly {in_words(sum(found.seconds.values()))} ({longest})"],
        ["memory", f"up to {found.memory_bytes / 1e9:.2f} GB"],
        ["packed file", f"about {megabytes(found.file_bytes)}"],
        ["run directory", f"up to {megabytes(found.run_bytes)}, if --run is given"],
    ]
    print_table(f"{found.recipe} {found.bits} of {model}: what it will take", ["", "about"], rows, right=2)
