"""The family of a packed model; asked before ``onnx`` is."""

from __future__ import annotations

from saqsam.families.record import Family
from saqsam.families.registry import family_named
from saqsam.pack.file import PackedModel


def packed_family(packed: PackedModel) -> Family:
    """As its configuration says."""
    return family_named(str(packed.config.get("model_type", "sam")))
