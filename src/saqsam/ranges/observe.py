"""What sits in a quantizer while it observes."""

from __future__ import annotations

from saqsam.quantizer import Observer, Quantizer
from saqsam.ranges.rules import rule_for
from saqsam.recipe import Ranges


def observer_for(quantizer: Quantizer, ranges: Ranges) -> Observer:
    """The observer that a quantizer's grid needs."""
    return rule_for(quantizer.kind).observer(quantizer, ranges)
