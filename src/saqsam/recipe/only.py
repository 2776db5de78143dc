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
    prefix = HALVES[other].removesuffix("*")
    # What was said of the other half is void; the last pattern that matches wins.
    patterns = {key: value for key, value in recipe.overrides.items() if not key.startswith(prefix)}
    patterns[HALVES[other]] = Override(keep_float=True)
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
