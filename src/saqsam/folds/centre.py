"""Key centring: take the constant part out of every key channel.

Adding a constant vector c to all keys adds ``q . c`` to all scores of a query, which softmax ignores;
so the mean of the keys can be removed from the bias at no cost. Relative positions depend on the query
only and are not touched. Known as "smooth K" from SageAttention (Zhang et al. 2024, section 3.2).
"""

from __future__ import annotations

from saqsam.folds.projections import KEY, Projections


def centre_keys(projections: Projections) -> float:
    """Subtract the mean key from the key bias; returns the largest mean that was removed."""
    mean = projections.statistics[KEY].mean
    _, bias = projections.rows(KEY)
    bias.sub_(mean)
    return float(mean.abs().max())
