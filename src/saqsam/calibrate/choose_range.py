"""From what an observer saw, or from a weight, to the quantizer's scale and zero point."""

from __future__ import annotations

from torch import Tensor

from saqsam.calibrate.rules import SiteRange as SiteRange
from saqsam.calibrate.rules import rule_for
from saqsam.calibrate.weights import weight_parameters
from saqsam.grids.affine import Affine
from saqsam.modules.quantizer import Quantizer
from saqsam.recipe import Ranges


def choose_activation_range(quantizer: Quantizer, ranges: Ranges, groups: int = 1) -> SiteRange | None:
    """Choose the range of an observed quantizer and start it quantizing; ``None`` if it saw nothing.

    ``groups`` is how many groups of channels a grouped grid may have.
    """
    return rule_for(quantizer.kind).choose(quantizer, ranges, groups)


def choose_weight_range(quantizer: Quantizer, ranges: Ranges, weight: Tensor) -> SiteRange:
    """Choose the ranges of a weight, one for each output channel, and start it quantizing."""
    scale, zero_point = weight_parameters(
        weight,
        quantizer.bits,
        ranges.method,
        fraction=ranges.percentile,
        norm=ranges.norm,
        site=quantizer.site,
    )
    quantizer.set(Affine(quantizer.bits, scale, zero_point))
    return SiteRange(float(weight.min()), float(weight.max()), weight.numel())
