"""``saqsam verify``: read a packed file, rebuild its model, audit it again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from saqsam.pack.audit import AuditReport, Check, audit
from saqsam.pack.convert import from_packed, to_packed
from saqsam.pack.file import PackedModel, read_packed


def verify_file(
    path: str | Path, progress: Callable[[str, int, int], None] = lambda stage, done, total: None
) -> AuditReport:
    """Check a packed file as ``freeze`` checked the model it was made from, and that it packs to itself.

    Raises:
        CorruptCheckpoint: a hash disagrees or the parts do not fit; nothing was run.
    """
    packed = read_packed(path)
    model, recipe = from_packed(packed, path)
    report = audit(model, recipe, progress)
    again = to_packed(model, recipe, packed.records)
    different = next(iter(_differences(packed, again)), "")
    same = Check(
        "every hash agrees, and packing the model again gives the same integers",
        not different,
        different,
        "its integers or scales change when packed again" if different else f"{len(packed.weights)} weights",
    )
    return AuditReport((same, *report.checks))


def _differences(first: PackedModel, second: PackedModel) -> list[str]:
    """Names of weights and activations that are not bit-equal."""
    names = [
        name
        for name, weight in first.weights.items()
        if not (
            weight.codes.equal(second.weights[name].codes)
            and weight.scale.equal(second.weights[name].scale)
            and weight.zero_point.equal(second.weights[name].zero_point)
        )
    ]
    return names + [name for name, grid in first.activations.items() if grid != second.activations[name]]
