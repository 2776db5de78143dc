"""One half of the model quantized, the other left float."""

from __future__ import annotations

from dataclasses import replace

from saqsam.errors import UsageError
from saqsam.recipe.fields import HALVES, Clip, Override, Recipe


def only(recipe: Recipe, half: str) -> Recipe:
    """The same recipe for one half alone.

    Args:
        recipe: for both halves.
        half: ``encoder`` or ``decoder``: the one that is quantized.

    Raises:
        UsageError: another word.
    """
    if half not in HALVES:
        raise UsageError(f"--only {half}: expected {' or '.join(HALVES)}, the half that is quantized")
    other = "decoder" if half == "encoder" else "encoder"
    patterns = {**recipe.overrides, HALVES[other]: Override(keep_float=True)}
    patterns[HALVES[other]] = patterns.pop(HALVES[other])  # last, since the last one that matches wins
    return replace(
        recipe,
        name=f"{recipe.name[:67]}-{half}-only",
        overrides=patterns,
        clip=Clip() if half == "encoder" else recipe.clip,
        reconstruct=replace(
            recipe.reconstruct,
            encoder=recipe.reconstruct.encoder if half == "encoder" else "none",
            decoder=recipe.reconstruct.decoder if half == "decoder" else "none",
        ),
    )
