"""What a page says of a model, whoever computes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from saqsam.families.record import Config
from saqsam.families.registry import family_of_config
from saqsam.pack.contents import PackedModel
from saqsam.recipe import Recipe
from saqsam.segment.zoom import Answering

_FLOAT_BYTES = 4


def model_facts(
    source: str | Path,
    config: Config,
    recipe: Recipe | None,
    *,
    own: Answering,
    file: Path | None,
    numbers: int,
) -> dict[str, Any]:
    """Plain JSON types.

    Args:
        source: what the user called the model.
        config: of the model.
        recipe: it was quantized with; ``None`` for a float model.
        own: how it answers boxes unless it is told otherwise; a page does so too.
        file: the packed file, if it is one.
        numbers: how many parameters the model has.
    """
    sizes = family_of_config(config).sizes(config)
    return {
        "name": Path(source).name,
        "model": str(source),
        "recipe": None if recipe is None else recipe.name,
        "bits": "float" if recipe is None else recipe.bits,
        "zoom": own.zoom,
        "clip_to_box": own.clip_to_box,
        "side": sizes.preprocessing.side,
        "pads": sizes.preprocessing.pads,
        "mean": list(sizes.preprocessing.mean),
        "std": list(sizes.preprocessing.std),
        "grid": sizes.embedding[0][-1],
        "packed_bytes": None if file is None else file.stat().st_size,
        "float_bytes": _FLOAT_BYTES * numbers,
    }


def count_numbers(packed: PackedModel) -> int:
    """Parameters of a packed model."""
    weights = sum(weight.codes.numel() for weight in packed.weights.values())
    return weights + sum(tensor.numel() for tensor in packed.rest.values())
