"""What is done with each unit, in order: decided once, for learning and for the estimate of what it costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

from saqsam.families.record import Model
from saqsam.models.sites import ENCODER
from saqsam.recipe import Reconstruct
from saqsam.reconstruct.end_to_end import end_to_end_unit
from saqsam.reconstruct.prompting import Prompting
from saqsam.reconstruct.units import Unit, decoder_units, encoder_units


class How(Enum):
    """What is done with a unit."""

    CARRIED = "states pass through it, nothing is learned"
    CLOSED_FORM = "its weights are rounded in closed form, all from one pass"
    LAYERS = "its layers are learned one after the other"
    STEPS = "it is learned as a whole"
    TUNED = "all parts are tuned to one another, from what enters the first to what leaves the last"


@dataclass(frozen=True)
class Step:
    """One unit and what is done with it.

    Attributes:
        unit: the unit.
        how: what is done.
        settings: what it is done with.
        prompt_aware: whether the prompt-aware term is used.
    """

    unit: Unit
    how: How
    settings: Reconstruct
    prompt_aware: bool

    @property
    def sees_layers(self) -> bool:
        """Whether what enters each layer in the float model is needed."""
        return self.how is How.LAYERS or (self.how is How.STEPS and self.settings.rounding == "gptq")


@dataclass(frozen=True)
class Plan:
    """All steps: of the encoder, of the decoder, and the last one, which tunes everything, if any."""

    encoder: tuple[Step, ...]
    decoder: tuple[Step, ...]
    tuning: Step | None

    @classmethod
    def of(cls, model: Model, prompting: Prompting, settings: Reconstruct) -> Plan:
        """The steps of a recipe; a decoder that nothing is learned of is left out."""
        tuning = None
        if settings.whole_iterations:
            unit = end_to_end_unit(model, prompting)
            tuning = Step(unit, How.TUNED, _tuning_settings(settings), prompt_aware=True)
        encoder = encoder_units(model, prompting, settings.unit)
        decoder: Iterator[Unit] = iter(())
        if tuning is not None or settings.decoder != "none":
            decoder = decoder_units(model, prompting, settings.token_weight)
        return cls(
            tuple(_step(unit, settings) for unit in encoder),
            tuple(_step(unit, settings) for unit in decoder),
            tuning,
        )


def _step(unit: Unit, settings: Reconstruct) -> Step:
    objective = settings.encoder if unit.part == ENCODER else settings.decoder
    if objective == "none":
        how = How.CARRIED
    elif settings.passes == "unit":
        how = How.CLOSED_FORM
    elif settings.unit == "layer":
        how = How.LAYERS
    else:
        how = How.STEPS
    return Step(unit, how, settings, prompt_aware=objective == "par" and unit.view is not None)


def _tuning_settings(settings: Reconstruct) -> Reconstruct:
    """The section as the last step takes it: no rounding, no coins, its own steps and rates."""
    return replace(
        settings,
        rounding="nearest",
        quantized_share=1.0,
        iterations=settings.whole_iterations,
        scale_rate=settings.whole_rate,
        bias_rate=settings.whole_rate if settings.bias_rate else 0.0,
    )
