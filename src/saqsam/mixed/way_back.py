"""Derivatives through the image encoder, several at once, in the memory of one block.

A map of a SAM-B's global attention alone takes 0.8 GB, and there are four of them. So only what enters each
block is kept, and on the way back a block is run again, once for all vectors whose derivatives are wanted; of
a large map a quarter of the rows is held at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from saqsam.families.embedding import Embedding
from saqsam.families.record import Model, State
from saqsam.families.registry import encoder_of

_LARGE_MAP, _ROW_SHARE = 1 << 22, 0.25
"""Elements of an attention map beyond which a block is worked through by subsets of rows, and their share."""

Gradients = list[Tensor]
"""Derivatives of one number with respect to several tensors, each of its tensor's shape."""


class EncoderWay:
    """One pass of images through the encoder, to be gone back.

    Attributes:
        embedding: what the encoder makes of the images.
    """

    def __init__(self, model: Model, pixels: Tensor) -> None:
        self._encoder, self._pixels = encoder_of(model), pixels.to(model.device, model.dtype)
        with torch.no_grad():
            state: State = (self._encoder.start(self._pixels),)
            self._states = [state]
            for index in range(len(self._encoder.blocks)):
                parts = [run(state[:1])[0] for _, run in self._parts(index)]
                state = self._encoder.carry(index, state, torch.cat(parts[::-1], dim=1))
                self._states.append(state)
            self.embedding: Embedding = self._encoder.finish(state)

    @torch.enable_grad()
    def back(self, gradients: Sequence[Gradients], of: Sequence[Tensor]) -> Gradients:
        """Derivatives with respect to ``of``, of the sum of several numbers.

        Args:
            gradients: those of each number with respect to the tensors of the embedding.
            of: tensors that steps of the encoder read besides their state; they require gradients.
        """
        found = [torch.zeros_like(x) for x in of]

        def step(run: Callable[[State], State], state: State, wanted: Sequence[Gradients]) -> list[Gradients]:
            nonlocal found
            leaves = tuple(x.detach().requires_grad_(True) for x in state)
            shared, before = pulled_back(run(leaves), wanted, of, leaves)
            found = add(found, shared)
            return before

        wanted = step(lambda state: self._encoder.finish(state).tensors, self._states[-1], gradients)
        for index in reversed(range(len(self._encoder.blocks))):
            state = self._states[index]
            leaving = self._states[index + 1][0]

            def carry(state: State, index: int = index) -> State:
                return self._encoder.carry(index, state[1:], state[0])

            both = step(carry, (leaving, *state), wanted)
            wanted = [own[1:] for own in both]
            for rows, run in self._parts(index):
                some = [[own[0][:, rows]] for own in both]
                parts = step(run, state[:1], some)
                wanted = [[x[0] + own[0], *own[1:]] for x, own in zip(parts, wanted, strict=True)]
        shared, _ = pulled_back((self._encoder.start(self._pixels),), wanted, of, ())
        return add(found, shared)

    def _parts(self, index: int) -> Iterator[tuple[slice, Callable[[State], State]]]:
        """Slices of rows of a block's output, the last ones first, and what computes them."""
        block, (x, *_) = self._encoder.blocks[index], self._states[index]
        subset = self._encoder.rows_of(block)
        if subset is None:
            yield slice(None), lambda state: (block(state[0]),)
            return

        def run(state: State, rows: slice) -> State:
            return (subset.run(state[0], rows),)

        large = subset.is_global(x) and (x.shape[1] * x.shape[2]) ** 2 > _LARGE_MAP
        for rows in reversed(subset.split(x.shape[1], _ROW_SHARE if large else 1.0)):
            yield rows, partial(run, rows=rows)


def pulled_back(
    outputs: State, wanted: Sequence[Sequence[Tensor]], of: Sequence[Tensor], leaves: Sequence[Tensor]
) -> tuple[Gradients, list[Gradients]]:
    """Derivatives of several numbers; zero where none depends on a tensor.

    Args:
        outputs: computed from ``of`` and ``leaves``; their graph is used up.
        wanted: of each number its derivatives with respect to the outputs.
        of, leaves: tensors that require gradients.

    Returns:
        Derivatives of the numbers' sum with respect to ``of``, and of each number with respect to ``leaves``.
    """
    shared = [torch.zeros_like(x) for x in of]
    if not any(x.requires_grad for x in outputs):
        return shared, [[torch.zeros_like(x) for x in leaves] for _ in wanted]
    tracked = [index for index, x in enumerate(outputs) if x.requires_grad]
    found = []
    for number, own in enumerate(wanted):
        slopes = torch.autograd.grad(
            [outputs[index] for index in tracked],
            (*of, *leaves),
            [own[index] for index in tracked],
            retain_graph=number < len(wanted) - 1,
            allow_unused=True,
        )
        filled = [
            torch.zeros_like(x) if y is None else y for x, y in zip((*of, *leaves), slopes, strict=True)
        ]
        shared = add(shared, filled[: len(of)])
        found.append(filled[len(of) :])
    return shared, found


def add(left: Sequence[Tensor], right: Sequence[Tensor]) -> Gradients:
    """Sums of tensors alike."""
    return [x + y for x, y in zip(left, right, strict=True)]
