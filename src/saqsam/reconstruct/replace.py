"""Other answers in place of a quantizer's own, for as long as a ``with`` block lasts.

Reconstruction needs the model in states that no finished model has: unquantized, softly rounded, half
quantized. None of them is a mode of the quantizer; each is a mapping from quantizers to functions that
answer for them, and it ends with its block. A quantizer that is still replaced cannot be frozen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor

from saqsam.modules.quantizer import Override, Quantizer

Answer = Override
"""What answers in a quantizer's place."""


@contextmanager
def replaced(answers: Mapping[Quantizer, Answer]) -> Iterator[None]:
    """While active, each quantizer returns what its function returns; blocks nest, the inner one wins."""
    before = {quantizer: quantizer.override for quantizer in answers}
    try:
        replaced_for_good(answers)
        yield
    finally:
        for quantizer, previous in before.items():
            quantizer.override = previous


def replaced_for_good(answers: Mapping[Quantizer, Answer]) -> None:
    """As ``replaced`` without an end: these quantizers can never be frozen; see ``published``."""
    for quantizer, answer in answers.items():
        quantizer.override = answer


def unquantized(quantizers: Iterable[Quantizer]) -> dict[Quantizer, Answer]:
    """Answers that leave every tensor as it is: the float model."""
    return dict.fromkeys(quantizers, _same)


def _same(x: Tensor, value: Tensor | None) -> Tensor:
    del value
    return x
