"""PyTorch as saqsam's figures are documented, whatever the caller has set, and afterwards as it was.

Autocast, the default dtype and device, inference mode, gradients and the precision of float32 products are
settings of a whole process or thread. Any of them changes what a model computes, so every public function
that computes begins here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

_FULL = ("none", "ieee")
"""What a backend says of its float32 products where nothing or full precision was asked for."""
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
    """float32 on the CPU by default, no autocast, no inference mode, no gradients, full float32 products, and
    no kernel of attention switched off.

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
        _in_full_float32(stack)
        _with_all_attention_kernels(stack)
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        yield


def _in_full_float32(stack: ExitStack) -> None:
    """Products of float32 in float32, and afterwards as it was.

    Since PyTorch 2.9 each backend has a setting of its own; the older one for all cannot even be asked for
    once a backend's was set.
    """
    import torch

    mkldnn, cuda = torch.backends.mkldnn, torch.backends.cuda
    found = [getattr(mkldnn, "matmul", None), getattr(mkldnn, "conv", None), cuda.matmul]
    backends: list[Any] = [one for one in found if hasattr(one, "fp32_precision")]
    own = [one.fp32_precision for one in backends]
    try:
        shared: str | None = torch.get_float32_matmul_precision()
    except RuntimeError:
        shared = None
    if shared == "highest" and all(value in _FULL for value in own):
        return

    def restore() -> None:
        if shared is not None:
            torch.set_float32_matmul_precision(shared)
        for one, value in zip(backends, own, strict=True):
            if one.fp32_precision != value:
                one.fp32_precision = value

    stack.callback(restore)
    torch.set_float32_matmul_precision("highest")
    for one in backends:
        if one.fp32_precision not in _FULL:
            one.fp32_precision = "ieee"


def _with_all_attention_kernels(stack: ExitStack) -> None:
    """Let PyTorch choose among all kernels of attention; with some switched off it may find none."""
    from torch.backends import cuda

    if not (cuda.flash_sdp_enabled() and cuda.mem_efficient_sdp_enabled() and cuda.math_sdp_enabled()):
        from torch.nn.attention import SDPBackend, sdpa_kernel

        kinds = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
        kinds += [SDPBackend.CUDNN_ATTENTION] * cuda.cudnn_sdp_enabled()
        stack.enter_context(sdpa_kernel(kinds))
