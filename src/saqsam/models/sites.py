"""The one table of everything that is quantized, and of everything that is not and why.

Attaching, calibrating, packing, auditing and reporting all iterate over it. It is built from the record of
the model's family, never by looking for words in module names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from saqsam.families.record import DECODER, ENCODER, Attention, FloatPart, Layer, Model
from saqsam.families.registry import HasConfig, family_of

__all__ = [
    "ATTENTION",
    "ATTENTION_ROLES",
    "DECODER",
    "ENCODER",
    "INPUT",
    "KEY",
    "QUERY",
    "VALUE",
    "WEIGHT",
    "FloatPart",
    "Site",
    "attention_rows",
    "decoder_attention_paths",
    "encoder_attention_paths",
    "float_parts",
    "layer_paths",
    "quantized_sites",
]

WEIGHT, INPUT = "weight", "input"
QUERY, KEY, VALUE, ATTENTION = "query", "key", "value", "attention"
ATTENTION_ROLES = (QUERY, KEY, VALUE, ATTENTION)


@dataclass(frozen=True)
class Site:
    """One tensor that is quantized.

    Attributes:
        path: module that owns the tensor, as in ``model.get_submodule(path)``.
        role: ``weight``, ``input``, ``query``, ``key``, ``value`` or ``attention`` (the softmax output).
        part: ``encoder`` (image encoder with its neck) or ``decoder`` (two-way transformer).
        kind: of weights and inputs, the kind of their layer, see ``saqsam.families.record``; else empty.
    """

    path: str
    role: str
    part: str
    kind: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """``"<path>:<role>"``, unique in the model."""
        return f"{self.path}:{self.role}"

    @property
    def granularity(self) -> str:
        """Weights have a scale for each output channel, activations one for the tensor."""
        return "per-channel" if self.role == WEIGHT else "per-tensor"


def quantized_sites(model: HasConfig) -> tuple[Site, ...]:
    """Every tensor to quantize, in the order in which the model computes them."""
    return tuple(site for row in family_of(model).rows(model) for site in _sites_of(row))


def _sites_of(row: Layer | Attention) -> Iterator[Site]:
    if isinstance(row, Layer):
        yield Site(row.path, INPUT, row.part, row.kind)
        yield Site(row.path, WEIGHT, row.part, row.kind)
    else:
        yield from (Site(row.path, role, row.part) for role in ATTENTION_ROLES)


def layer_paths(model: Model) -> tuple[str, ...]:
    """Paths of the linear layers and convolutions that are quantized, in order."""
    return tuple(row.path for row in family_of(model).rows(model) if isinstance(row, Layer))


def attention_rows(model: Model, part: str | None = None) -> tuple[Attention, ...]:
    """The attentions in the order in which they run: of ``encoder`` or ``decoder``, or all of them."""
    rows = (row for row in family_of(model).rows(model) if isinstance(row, Attention))
    return tuple(row for row in rows if part in (None, row.part))


def decoder_attention_paths(model: Model) -> tuple[str, ...]:
    """Paths of the mask decoder's attentions (7 in SAM), in the order in which they run."""
    return tuple(row.path for row in attention_rows(model, DECODER))


def encoder_attention_paths(model: Model) -> tuple[str, ...]:
    """Paths of the image encoder's attentions, first block first."""
    return tuple(row.path for row in attention_rows(model, ENCODER))


def float_parts(model: Model) -> tuple[FloatPart, ...]:
    """Everything that stays float, with the reason; together with the weights of
    ``quantized_sites`` these paths own every parameter of the model exactly once."""
    return family_of(model).float_parts(model)
