"""Which family a model or a configuration belongs to."""

from __future__ import annotations

from typing import Any

from saqsam.errors import UsageError
from saqsam.families.record import Decoder, Encoder, Family, Model
from saqsam.families.sam import SAM

FAMILIES = (SAM,)
"""Every family there is."""


def family_of(model: Model) -> Family:
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


def encoder_of(model: Model) -> Encoder:
    """The steps of the model's image encoder."""
    return family_of(model).encoder(model)


def decoder_of(model: Model) -> Decoder:
    """The steps of the model's prompt encoder and mask decoder."""
    return family_of(model).decoder(model)
