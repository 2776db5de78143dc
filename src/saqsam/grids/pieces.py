"""How straight-through estimators work fast on a CPU: in pieces that stay in its cache, without booleans.

PyTorch's operations on booleans (comparing, ``where``, multiplying, converting) take five to thirty times as
long as the same arithmetic on floats, and a tensor of 50 MB goes through memory once for each operation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

_CACHED = 1 << 20
"""Elements worked on together: four megabytes."""


def in_pieces(*tensors: Tensor | None) -> Iterator[Sequence[Tensor | None]]:
    """The tensors, all of one shape, some rows of their last dimension at a time; ``None`` stays ``None``.

    What is small, lies otherwise in memory, or is not on a CPU, comes whole.
    """
    given = [x for x in tensors if x is not None]
    first = given[0]
    whole = first.device.type != "cpu" or not all(x.is_contiguous() for x in given)
    if whole or first.numel() <= _CACHED:
        yield tensors
        return
    rows = max(1, _CACHED // first.shape[-1])
    parts = [None if x is None else x.view(-1, x.shape[-1]).split(rows) for x in tensors]
    for index in range(-(-(first.numel() // first.shape[-1]) // rows)):
        yield [None if part is None else part[index] for part in parts]


def ones_where(mask: Tensor, like: Tensor) -> Tensor:
    """A bool tensor as zeros and ones of the type of ``like``."""
    return mask.view(torch.int8).to(like.dtype)


def mask_of(ones: Tensor) -> Tensor:
    """Zeros and ones as a bool tensor."""
    return ones.to(torch.int8).view(torch.bool)


def select(ones: Tensor, chosen: Tensor, other: Tensor) -> Tensor:
    """``chosen`` where ``ones`` is one, ``other`` where it is zero; finite numbers, exactly."""
    return torch.lerp(other, chosen, ones)
