"""What sits in a quantizer while it observes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from saqsam.calibrate.rules import rule_for
from saqsam.modules.quantizer import Observer, Quantizer
from saqsam.recipe import Ranges


def observer_for(quantizer: Quantizer, ranges: Ranges) -> Observer:
    """The observer that a quantizer's grid needs."""
    return rule_for(quantizer.kind).observer(quantizer, ranges)


class _Together:
    """Observers that see the same tensors."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self.observers = observers

    def update(self, x: Tensor, value: Tensor | None) -> None:
        """Show it to all of them."""
        for observer in self.observers:
            observer.update(x, value)


@contextmanager
def observing_together(models: Sequence[Sequence[Quantizer]]) -> Iterator[None]:
    """While active, what passes the quantizers of the first model is shown to the observers of all of them.

    Args:
        models: of each model the same sites in the same order, all with observers.
    """
    first = models[0]
    own = [quantizer.observer for quantizer in first]
    if len(models) > 1:
        for same in zip(*models, strict=True):
            same[0].observer = _Together([x.observer for x in same if x.observer is not None])
    try:
        yield
    finally:
        for quantizer, observer in zip(first, own, strict=True):
            quantizer.observer = observer
