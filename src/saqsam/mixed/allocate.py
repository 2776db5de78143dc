"""Dividing a budget of bits among sites: the upgrade that buys most for its cost comes first.

Errors of sites are taken to add up, so this is a knapsack with a few choices for each site. On the lower
convex hull of a site's (cost, error) points every next upgrade buys less than the one before, and taking
upgrades in the order of error saved for each unit of cost is optimal up to the last that does not fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from itertools import pairwise

Curve = Mapping[int, float]
"""Error of one site by its bits."""


def allocate(curves: Mapping[str, Curve], sizes: Mapping[str, int], budget: int) -> dict[str, int]:
    """Bits of every site.

    Args:
        curves: by site.
        sizes: what one bit costs at each site, at least 1: its elements, or its multiplications.
        budget: the sum of bits times size may not exceed it.

    Returns:
        One of its curve's bits for every site. Where the budget is too small for anything, the least.
    """
    chosen = {site: min(curve) for site, curve in curves.items()}
    left = budget - sum(bits * sizes[site] for site, bits in chosen.items())
    steps = []
    for site, curve in curves.items():
        hull = _hull(curve)
        for low, high in pairwise(hull):
            saved = (curve[low] - curve[high]) / ((high - low) * sizes[site])
            steps.append((-saved, low, site, high))
    for _, low, site, high in sorted(steps):
        cost = (high - low) * sizes[site]
        if chosen[site] == low and cost <= left:
            chosen[site], left = high, left - cost
    return chosen


def _hull(curve: Curve) -> list[int]:
    """Bits on the lower convex hull, ascending, as far as the error falls."""
    hull: list[int] = []
    for bits in sorted(curve):
        if hull and curve[bits] >= curve[hull[-1]]:
            continue
        while len(hull) > 1 and _slope(curve, hull[-2], hull[-1]) >= _slope(curve, hull[-1], bits):
            hull.pop()
        hull.append(bits)
    return hull


def _slope(curve: Curve, low: int, high: int) -> Fraction:
    return (Fraction(curve[high]) - Fraction(curve[low])) / (high - low)
