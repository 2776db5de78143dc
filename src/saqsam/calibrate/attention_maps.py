"""The search for an attention map's logarithmic grid (AGQ, PTQ4SAM section 3.3), all candidates at once.

For granularity 1, 2, 4 and each largest value s the error is ``mean |x_hat V - x V|**norm``, with the
attention's own value tensor V. Candidates of s lie 2 % apart: where the largest probabilities fall between
two levels decides the error more than anything else.

No candidate needs a product of its own. Keys are sorted by probability and V is summed along them; a
level of a grid is an interval of probabilities, so its share of ``x_hat V`` is the difference of two such
sums, and the levels of a candidate are consecutive levels of an endless grid that many candidates share.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from saqsam.errors import InvariantError, NumericalError
from saqsam.grids.log2 import GRANULARITIES
from saqsam.modules.sampling import sample_maps

STEPS = 32
"""Candidate scales in each octave."""
OCTAVES = 13
"""Candidate scales reach from 1 down to ``2**-13``: of 4,096 keys one has at least ``2**-12``."""
_DEEPEST = 40
"""Octaves below 1 at which a level counts as zero: no float32 sum notices it."""
_ELEMENTS = 1 << 22
"""Values summed at once, so that memory stays flat."""


class AttentionObserver:
    """Sums, for each candidate grid, the error it causes in the attention's output.

    Sums over images are kept for all candidates, so images can be seen in any order and none is stored.

    Attributes:
        errors: float64 ``(granularities, OCTAVES * STEPS)``, largest scale first; infinite for scales below
            what the largest probability of so few keys must be.
        highest: largest probability seen.
        rows: queries looked at.
    """

    def __init__(self, site: str, bits: int, norm: float) -> None:
        self.site, self.bits, self.norm = site, bits, norm
        self.errors = torch.zeros(len(GRANULARITIES), OCTAVES * STEPS, dtype=torch.float64)
        self.highest = 0.0
        self.rows = 0

    def update(self, x: Tensor, value: Tensor | None) -> None:
        """Score all candidates on an even sample of one set of maps.

        Args:
            x: ``(maps, queries, keys)`` or ``(prompts, heads, queries, keys)`` probabilities.
            value: values in the same layout, ``(..., keys, channels)``.

        Raises:
            NumericalError: NaN or infinity in the maps.
        """
        if value is None:
            raise InvariantError(self.site, "the attention map was observed without its values")
        rows, values = sample_maps(x, value)
        if not bool(torch.isfinite(rows).all()):
            raise NumericalError(self.site, "NaN or infinity in the attention map")
        self.highest = max(self.highest, float(rows.max()))
        self.rows += rows.shape[0] * rows.shape[1]
        together = max(1, _ELEMENTS // (rows.shape[1] * values.shape[1] * values.shape[2]))
        for some, theirs in zip(rows.split(together), values.split(together), strict=True):
            sums = _SortedSums(some, theirs)
            for errors, tau in zip(self.errors, GRANULARITIES, strict=True):
                found = sums.errors(tau, self.bits, self.norm) * (len(some) / len(rows))
                errors[: len(found)] += found.cpu()
                errors[len(found) :] = torch.inf

    def best(self) -> tuple[Tensor, int]:
        """Scale (scalar float32) and granularity with the least error over all images seen; ties go to the
        coarser granularity and the larger scale."""
        row, column = divmod(int(torch.argmin(self.errors)), OCTAVES * STEPS)
        return torch.exp2(torch.tensor(-column / STEPS)), GRANULARITIES[row]


class _SortedSums:
    """Maps with their keys sorted by probability, and running sums of the values in that order.

    Args:
        rows: ``(maps, queries, keys)`` probabilities.
        values: ``(maps, keys, channels)``.
    """

    def __init__(self, rows: Tensor, values: Tensor) -> None:
        rows, values = rows.double(), values.double()
        self.target = rows @ values
        ordered, order = rows.sort(dim=-1, descending=True)
        self.depth = -torch.log2(ordered)  # ascending; infinite for zero
        picked = torch.gather(
            values[:, None].expand(-1, rows.shape[1], -1, -1),
            2,
            order[..., None].expand(-1, -1, -1, values.shape[-1]),
        )
        self.octaves = min(OCTAVES, math.ceil(math.log2(rows.shape[-1])) + 1)
        self.sums = torch.nn.functional.pad(picked.cumsum(2), (0, 0, 1, 0))

    def errors(self, tau: int, bits: int, norm: float) -> Tensor:
        """Error of each candidate scale of one granularity, largest scale first."""
        phases, candidates, levels = STEPS // tau, self.octaves * tau, 2**bits - 1
        count = min(candidates + levels, _DEEPEST * tau)
        device = self.depth.device
        steps = torch.arange(count, device=device, dtype=torch.float64)
        starts = torch.arange(phases, device=device, dtype=torch.float64)[:, None] / phases
        # Level i of a phase has the depth (start + i) / tau and ends half a step below; (phases, count).
        value = torch.exp2(-(starts + steps) / tau)
        ends = (starts + steps + 0.5) / tau
        above = self._sums_down_to(ends)  # (maps, queries, phases, count, channels)
        parts = torch.diff(above, dim=3) * value[:, 1:, None]
        running = torch.nn.functional.pad(parts.cumsum(3), (0, 0, 1, 0))  # levels 1 to i, weighted
        first = torch.arange(candidates, device=device)
        last = (first + levels - 1).clamp(max=count - 1)
        output = above[..., first, :] * value[:, first, None]  # what exceeds the scale is cut to it
        output += running[..., last, :] - running[..., first, :]
        errors = (output - self.target[:, :, None, None]).float().abs_().pow_(norm).mean(dim=(0, 1, 4))
        return errors.double().t().flatten()

    def _sums_down_to(self, depths: Tensor) -> Tensor:
        """Sum of the values of all keys less deep than ``depths``; ``(maps, queries, *depths, channels)``."""
        flat = depths.flatten().expand(*self.depth.shape[:2], -1).contiguous()
        place = torch.searchsorted(self.depth, flat)
        found = torch.gather(self.sums, 2, place[..., None].expand(-1, -1, -1, self.sums.shape[-1]))
        sums: Tensor = found.unflatten(2, depths.shape)
        return sums
