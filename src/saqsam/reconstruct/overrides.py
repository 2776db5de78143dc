"""Overrides of quantizers, for as long as a ``with`` block lasts.

Reconstruction needs the model in states that no finished model has: unquantized, softly rounded, half
quantized. None of them is a mode of the quantizer; each is a mapping from quantizers to functions that
answer for them, and it ends with its block. A quantizer that is still overridden cannot be frozen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor

from saqsam.modules.quantizer import Override, Quantizer


@contextmanager
def overridden(overrides: Mapping[Quantizer, Override]) -> Iterator[None]:
    """While active, each quantizer returns what its function returns; blocks nest, the inner one wins."""
    before = {quantizer: quantizer.override for quantizer in overrides}
    try:
        override_for_good(overrides)
        yield
    finally:
        for quantizer, previous in before.items():
            quantizer.override = previous


def override_for_good(overrides: Mapping[Quantizer, Override]) -> None:
    """As ``overridden`` without an end: these quantizers can never be frozen; see ``published``."""
    for quantizer, override in overrides.items():
        quantizer.override = override


def unquantized(quantizers: Iterable[Quantizer]) -> dict[Quantizer, Override]:
    """Overrides that leave every tensor as it is: the float model."""
    return dict.fromkeys(quantizers, _same)


def _same(x: Tensor, value: Tensor | None) -> Tensor:
    del value
    return x
