"""Which family a model or a configuration belongs to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, cast

from torch import nn

from saqsam.errors import UsageError
from saqsam.families.record import Decoder, Encoder, Family, Model, Sizes
from saqsam.families.sam import SAM
from saqsam.families.sam2 import SAM2
from saqsam.families.sam3 import SAM3
from saqsam.families.sam_hq import SAM_HQ

FAMILIES = (SAM3, SAM2, SAM_HQ, SAM)
"""Every family there is; SAM 1, whose names have the fewest marks, comes last."""


class HasConfig(Protocol):
    """A model, or what stands in for one: its configuration says of which family it is."""

    @property
    def config(self) -> Any: ...


def family_of(model: HasConfig) -> Family:
    """The family of a model.

    Raises:
        UsageError: it is of none that is known.
    """
    return family_of_config(model.config)


def family_of_config(config: Any) -> Family:
    """The family of a ``transformers`` configuration; errors as of :func:`family_of`."""
    return family_named(str(getattr(config, "model_type", type(config).__name__)))


def family_named(model_type: str) -> Family:
    """The family with this ``model_type``; errors as of :func:`family_of`."""
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    known = ", ".join(family.name for family in FAMILIES)
    raise UsageError(
        f"a model of type '{model_type}' cannot be used here; give one of a known family: {known}"
    )


def family_of_names(names: Iterable[str]) -> Family:
    """The family whose models have tensors of these ``transformers`` names; SAM 1 if nothing says other."""
    names = list(names)
    for family in FAMILIES:
        marks = family.naming.marks
        if marks and any(name.startswith(marks) for name in names):
            return family
    return SAM


def encoder_of(model: Model) -> Encoder:
    """The steps of the model's image encoder."""
    return cast(Encoder, _calls(model) or family_of(model).modules().encoder(model))


def decoder_of(model: Model) -> Decoder:
    """The steps of the model's prompt encoder and mask decoder."""
    return cast(Decoder, _calls(model) or family_of(model).modules().decoder(model))


def _calls(model: Model) -> Any:
    """The steps of what only has the calls of a model, or ``None``: its modules are not imported for it."""
    calls = family_of(model).calls
    return None if calls is None or isinstance(model, nn.Module) else calls(model)


def sizes_of(model: HasConfig) -> Sizes:
    """Sizes of the model's inputs and outputs."""
    return family_of(model).sizes(model.config)


def tell_licence(model: HasConfig, where: object) -> None:
    """Say, in a warning, what the licence of the model's weights asks of whoever passes on what was written;
    of most families it asks nothing that would have to be said."""
    licence = family_of(model).licence
    if licence is not None:
        licence.tell(where)
