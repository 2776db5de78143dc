"""Which models have graphs; asked before ``onnx`` is."""

from __future__ import annotations

from saqsam.errors import UsageError
from saqsam.families.record import Family
from saqsam.families.registry import family_named
from saqsam.pack.file import PackedModel


def packed_family(packed: PackedModel) -> Family:
    """The family of a packed model."""
    return family_named(str(packed.config.get("model_type", "sam")))


def refuse_without_graphs(packed: PackedModel) -> None:
    """Refuse a model of a family whose graphs cannot be written.

    Raises:
        UsageError: it is of one; the message says what runs it.
    """
    family = packed_family(packed)
    if not family.graphs:
        raise UsageError(
            f"{family.name} has no ONNX graph yet, nor an engine that needs one; run the packed file as it "
            "is, or with --engine int8"
        )
