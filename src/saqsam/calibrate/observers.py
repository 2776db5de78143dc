"""What sits in a quantizer while it observes."""

from __future__ import annotations

from saqsam.calibrate.rules import rule_for
from saqsam.modules.quantizer import Observer, Quantizer
from saqsam.recipe import Ranges


def observer_for(quantizer: Quantizer, ranges: Ranges) -> Observer:
    """The observer that a quantizer's grid needs."""
    return rule_for(quantizer.kind).observer(quantizer, ranges)
