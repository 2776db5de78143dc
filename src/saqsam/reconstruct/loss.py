"""How far a unit's output is from what it should be: a local term and a prompt-aware one.

Prompt-aware (SAQ-SAM section 3.3): ``mean ||view(y) - view(target)||^2``, the norm over channels, the
mean over prompts and positions. For an encoder unit the view is the image tokens after the decoder's
transformer (stages in between are skipped), for a decoder unit the final prompt tokens. Where it looks
through the neck's 1x1 convolution it cannot see most directions of the residual stream, which later
stages do read; the local term ``mean ||y - target||^2`` holds those in place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from saqsam.families.record import State
from saqsam.reconstruct.mixing import Mixing
from saqsam.reconstruct.units import Unit


@dataclass(frozen=True)
class Problem:
    """What one unit is learned on; every list has one entry for each calibration image.

    Attributes:
        unit: the unit.
        inputs: states that enter it in the quantized model.
        references: states that enter it in the float model, for QDrop's mixing.
        targets: states that should leave it.
        views: what the prompt-aware term should see, one tensor each, or ``None`` to do without that term.
        weights: of the prompt-aware term and of the local one, as in ``balanced``.
    """

    unit: Unit
    inputs: Sequence[State]
    references: Sequence[State]
    targets: Sequence[State]
    views: Sequence[State] | None
    weights: tuple[float, float]

    def loss(
        self, images: Sequence[int], mixing: Mixing | None, among: Sequence[int] | None = None
    ) -> Tensor:
        """The weighted terms on some images, a scalar; the unit runs as its quantizers now answer.

        Args:
            images: numbers of the images.
            mixing: QDrop's coins.
            among: all images of the step, if ``images`` is a part of them. The losses of the parts then
                add up to the loss of the step: each mean is over all of the step's rows.
        """
        return total(self.terms(self.run(images, mixing), images, among))

    def run(self, images: Sequence[int], mixing: Mixing | None, rows: slice | None = None) -> State:
        """What leaves the unit for some images; see ``loss``. With ``rows``, only those rows of it."""
        state = joined(self.inputs, images)
        if mixing is not None:
            float_state = joined(self.references, images)
            state = tuple(
                mixing.between(x, float_state[index]) if index in self.unit.mixed else x
                for index, x in enumerate(state)
            )
        if rows is not None and self.unit.rows is not None:
            return (self.unit.rows.run(state[0], rows),)
        return self.unit.run(state)

    def terms(
        self,
        found: State,
        images: Sequence[int],
        among: Sequence[int] | None = None,
        rows: slice | None = None,
    ) -> dict[str, Tensor]:
        """``local`` and ``prompt``, each with its weight, a scalar; a term that is not used is left out.

        Args:
            found: what left the unit.
            images, among: as in ``loss``.
            rows: the rows that ``found`` has, if not all; there is no prompt-aware term then.
        """
        local_share, prompt_share = self._shares(images, among)
        prompt_weight, local_weight = self.weights
        terms = {}
        if local_weight:
            wanted_state = joined(self.targets, images)
            if rows is not None:
                wanted_state = tuple(x[:, rows] for x in wanted_state)
            local = local_term(self.unit, found, wanted_state)
            terms["local"] = local_share * local_weight * local
        if self.views is not None:
            (wanted,) = joined(self.views, images)
            prompt = mean_square(self.unit.seen(found, images), wanted, -1)
            terms["prompt"] = prompt_share * prompt_weight * prompt
        return terms

    def _shares(self, images: Sequence[int], among: Sequence[int] | None) -> tuple[float, float]:
        """Shares of a part in the means of the local term and of the prompt-aware one."""
        if among is None or len(among) == len(images):
            return 1.0, 1.0
        local, seen = (
            sum(counts[image] for image in images) / sum(counts[image] for image in among)
            for counts in self._rows
        )
        return local, seen

    @cached_property
    def _rows(self) -> tuple[list[int], list[int]]:
        """Rows of each image in the local term, and in the prompt-aware one."""
        rows = [len(state[0]) for state in self.targets]
        return rows, rows if self.views is None else [len(view) for (view,) in self.views]

    @cached_property
    def shapes(self) -> list[tuple[torch.Size, ...]]:
        """Shape of each input without its batch; only equal ones can be joined."""
        return [tuple(x.shape[1:] for x in state) for state in self.inputs]


def total(terms: Mapping[str, Tensor]) -> Tensor:
    """Their sum, a scalar."""
    return torch.stack(list(terms.values())).sum()


def local_term(unit: Unit, found: State, wanted: State) -> Tensor:
    """Weighted sum over the state's tensors of mean squared distance, summed over channels."""
    terms = [
        weight * mean_square(x, y, unit.channels)
        for weight, x, y in zip(unit.local, found, wanted, strict=False)
        if weight
    ]
    return torch.stack(terms).sum()


def mean_square(x: Tensor, y: Tensor, channels: int) -> Tensor:
    """``||x - y||^2`` over dimension ``channels``, mean over all others."""
    return (x - y).square().sum(channels).mean()


def balanced(
    unit: Unit, targets: Sequence[State], views: Sequence[State] | None, prompt: float, local: float
) -> tuple[float, float]:
    """Weights of both terms such that ``prompt`` and ``local`` weigh *relative* errors.

    The local term is put on the prompt-aware term's scale by the ratio of the targets' mean squares.
    Without views the local term stands alone, with weight 1.
    """
    if views is None:
        return 0.0, 1.0
    seen = sum(float(view.square().sum(-1).mean()) for (view,) in views)
    zeros = [tuple(torch.zeros_like(x) for x in state) for state in targets]
    own = sum(float(local_term(unit, a, b)) for a, b in zip(targets, zeros, strict=True))
    return prompt, local * seen / max(own, 1e-12)


def joined(states: Sequence[State], images: Sequence[int]) -> State:
    """The states of some images as one batch."""
    if len(images) == 1:
        return states[images[0]]
    return tuple(torch.cat(parts) for parts in zip(*(states[image] for image in images), strict=True))
