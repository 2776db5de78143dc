"""Other answers in place of a quantizer's own, for as long as a ``with`` block lasts.

Reconstruction needs the model in states that no finished model has: unquantized, softly rounded, half
quantized. None of them is a mode of the quantizer; each is a mapping from quantizers to functions that
answer for them, and it ends with its block. A quantizer that is still replaced cannot be frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor

from saqsam.quantizer import Quantizer

Answer = Callable[[Tensor, Tensor | None], Tensor]
"""Called like a quantizer: the tensor, and for attention maps the values they weigh (else ``None``)."""


@contextmanager
def replaced(answers: Mapping[Quantizer, Answer]) -> Iterator[None]:
    """While active, each quantizer returns what its function returns; blocks nest, the inner one wins."""
    before = {quantizer: vars(quantizer).get("forward") for quantizer in answers}
    try:
        for quantizer, answer in answers.items():
            vars(quantizer)["forward"] = _with_default(answer)
        yield
    finally:
        for quantizer, previous in before.items():
            if previous is None:
                vars(quantizer).pop("forward", None)
            else:
                vars(quantizer)["forward"] = previous


def replaced_for_good(answers: Mapping[Quantizer, Answer]) -> None:
    """As ``replaced`` without an end: these quantizers can never be frozen; see ``published``."""
    for quantizer, answer in answers.items():
        vars(quantizer)["forward"] = _with_default(answer)


def unquantized(quantizers: Iterable[Quantizer]) -> dict[Quantizer, Answer]:
    """Answers that leave every tensor as it is: the float model."""
    return dict.fromkeys(quantizers, _same)


def _same(x: Tensor, value: Tensor | None) -> Tensor:
    del value
    return x


def _with_default(answer: Answer) -> Callable[..., Tensor]:
    def forward(x: Tensor, value: Tensor | None = None) -> Tensor:
        return answer(x, value)

    return forward
