"""Integers of 1 to 8 bits laid end to end in bytes, without gaps: the payload of a packed file.

Bit order is little-endian throughout. With ``b`` bits per code, code ``i`` occupies the bits
``i*b .. i*b + b - 1`` of the stream, its least significant bit first, and bit ``n`` of the stream is
bit ``n % 8`` (value ``1 << (n % 8)``) of byte ``n // 8``. The unused high bits of the last byte are
zero, so that equal codes always give equal bytes.

Eight codes of ``b`` bits fill exactly ``b`` bytes. Both directions use this: eight codes are shifted
into one little-endian 64-bit word, of which the first ``b`` bytes are kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_GROUP = 8  # codes that together fill a whole number of bytes, whatever their width
_GROUPS_AT_ONCE = 1 << 16  # bounds the 64-bit scratch words to half a megabyte, which stays in cache


def packed_size(count: int, bits: int) -> int:
    """Bytes that ``count`` codes of ``bits`` bits occupy: ``ceil(count * bits / 8)``."""
    _check_bits(bits)
    return (count * bits + 7) // 8


def pack(codes: Tensor, bits: int) -> Tensor:
    """Lay codes end to end.

    Args:
        codes: uint8 tensor of any shape, read in row-major order, values ``0 .. 2**bits - 1``.
        bits: width of a code, 1 to 8.

    Returns:
        uint8 tensor of shape ``(packed_size(codes.numel(), bits),)`` on the CPU.

    Raises:
        ValueError: another dtype, a width outside 1 to 8, or a code that does not fit its width.
    """
    _check_bits(bits)
    if codes.dtype != torch.uint8:
        raise ValueError(f"codes must be uint8, not {codes.dtype}")
    flat = codes.detach().cpu().contiguous().view(-1).numpy()
    if flat.size and int(flat.max()) >= 1 << bits:
        raise ValueError(f"code {int(flat.max())} does not fit into {bits} bits (0 to {(1 << bits) - 1})")
    packed = np.empty(packed_size(flat.size, bits), dtype=np.uint8)
    step = _GROUP * _GROUPS_AT_ONCE
    for start in range(0, flat.size, step):
        part = flat[start : start + step]
        first = start * bits // 8
        size = packed_size(part.size, bits)
        packed[first : first + size] = _join(part, bits)[:size]
    return torch.from_numpy(packed)


def unpack(packed: Tensor, bits: int, shape: int | Sequence[int]) -> Tensor:
    """Read codes back: ``unpack(pack(codes, bits), bits, codes.shape)`` equals ``codes``.

    Args:
        packed: uint8 tensor of shape ``(packed_size(count, bits),)`` for the ``count`` codes of ``shape``.
        bits: width of a code, 1 to 8.
        shape: number of codes, or the shape to give them.

    Returns:
        uint8 tensor of ``shape`` on the CPU, values ``0 .. 2**bits - 1``.

    Raises:
        ValueError: another dtype, a width outside 1 to 8, a length that does not match ``shape``, or
            set bits after the last code.
    """
    _check_bits(bits)
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    if any(size < 0 for size in sizes):
        raise ValueError(f"a shape has no negative sizes, got {sizes}")
    count = math.prod(sizes)
    if packed.dtype != torch.uint8 or packed.shape != (packed_size(count, bits),):
        wanted = f"uint8 of shape ({packed_size(count, bits)},)"
        raise ValueError(
            f"{count} codes of {bits} bits need {wanted}, got {packed.dtype} of {tuple(packed.shape)}"
        )
    source = packed.detach().cpu().contiguous().numpy()
    used = count * bits % 8
    if used and int(source[-1]) >> used:
        raise ValueError("the unused bits of the last byte are not zero")
    codes = np.empty(count, dtype=np.uint8)
    step = _GROUP * _GROUPS_AT_ONCE
    for start in range(0, count, step):
        size = min(step, count - start)
        first = start * bits // 8
        codes[start : start + size] = _split(source[first : first + packed_size(size, bits)], bits)[:size]
    return torch.from_numpy(codes).view(sizes)


def _join(codes: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """Bytes of whole groups of eight codes; a last group that is short is filled up with zeros."""
    groups = -(-codes.size // _GROUP)
    if codes.size != groups * _GROUP:
        codes = np.concatenate([codes, np.zeros(groups * _GROUP - codes.size, dtype=np.uint8)])
    columns = codes.reshape(groups, _GROUP)
    words = np.zeros(groups, dtype="<u8")
    for place in range(_GROUP):
        words |= columns[:, place].astype("<u8") << np.uint64(place * bits)
    return words.view(np.uint8).reshape(groups, 8)[:, :bits].reshape(-1)


def _split(packed: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """Codes of whole groups of ``bits`` bytes; a last group that is short is filled up with zeros."""
    groups = -(-packed.size // bits)
    if packed.size != groups * bits:
        packed = np.concatenate([packed, np.zeros(groups * bits - packed.size, dtype=np.uint8)])
    slots = np.zeros((groups, 8), dtype=np.uint8)
    slots[:, :bits] = packed.reshape(groups, bits)
    words = slots.reshape(-1).view("<u8")
    codes = np.empty((groups, _GROUP), dtype=np.uint8)
    mask = np.uint64((1 << bits) - 1)
    for place in range(_GROUP):
        codes[:, place] = (words >> np.uint64(place * bits)) & mask
    return codes.reshape(-1)


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= 8:
        raise ValueError(f"a code has 1 to 8 bits, not {bits}")
