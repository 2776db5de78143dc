"""PyTorch as saqsam's figures are documented, whatever the caller has set, and afterwards as it was.

Autocast, the default dtype and device, inference mode, gradients and the precision of float32 products are
settings of a whole process or thread. Any of them changes what a model computes, so every public function
that computes begins here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")
_AUTOCAST_DEVICES = ("cpu", "cuda", "mps", "xpu")


def as_documented(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """The function, computing under :func:`documented_state`."""

    @wraps(function)
    def inside(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with documented_state():
            return function(*args, **kwargs)

    return inside


@contextmanager
def documented_state() -> Iterator[None]:
    """float32 on the CPU by default, no autocast, no inference mode, no gradients, full float32 products.

    Deterministic algorithms, threads and random generators are left as they are: the first only forbid, the
    second are the caller's to choose, and saqsam draws from generators of its own.
    """
    import torch

    with ExitStack() as stack:
        dtype = torch.get_default_dtype()
        if dtype != torch.float32:
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for device in _AUTOCAST_DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        precision = torch.get_float32_matmul_precision()
        if precision != "highest":
            stack.callback(torch.set_float32_matmul_precision, precision)
            torch.set_float32_matmul_precision("highest")
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        yield
