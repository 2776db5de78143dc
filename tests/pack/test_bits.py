"""Bit packing against an oracle of plain Python integers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saqsam.pack.bits import pack, packed_size, unpack


def oracle(codes: list[int], bits: int) -> bytes:
    """The whole stream as one big integer, written out little-endian."""
    stream = 0
    for place, code in enumerate(codes):
        stream |= code << (place * bits)
    return stream.to_bytes(math.ceil(len(codes) * bits / 8), "little")


@st.composite
def coded(draw: st.DrawFn) -> tuple[torch.Tensor, int]:
    """Codes of any width in any shape, empty ones and scalars included."""
    bits = draw(st.integers(1, 8))
    shape = draw(st.lists(st.integers(0, 7), max_size=4))
    count = math.prod(shape)
    drawn = draw(st.binary(min_size=count, max_size=count))
    return torch.tensor([byte % 2**bits for byte in drawn], dtype=torch.uint8).reshape(shape), bits


@given(coded())
@settings(max_examples=2000, deadline=None)
def test_round_trip_and_oracle(example: tuple[torch.Tensor, int]) -> None:
    codes, bits = example
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (packed_size(codes.numel(), bits),)
    assert bytes(packed.tolist()) == oracle(codes.flatten().tolist(), bits)
    back = unpack(packed, bits, codes.shape)
    assert back.dtype == torch.uint8
    assert back.shape == codes.shape
    assert torch.equal(back, codes)


@given(st.integers(1, 8), st.binary(max_size=64), st.integers(0, 7))
@settings(max_examples=1000, deadline=None)
def test_every_accepted_stream_is_the_packing_of_its_codes(bits: int, stream: bytes, spare: int) -> None:
    """unpack is injective: two different byte strings never give the same codes."""
    count = max(0, len(stream) * 8 // bits - spare)
    packed = torch.from_numpy(np.frombuffer(stream, dtype=np.uint8).copy())[: packed_size(count, bits)]
    used = count * bits % 8
    if used and int(packed[-1]) >> used:
        with pytest.raises(ValueError, match="unused bits"):
            unpack(packed, bits, count)
    else:
        assert torch.equal(pack(unpack(packed, bits, count), bits), packed)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("extra", [-1, 0, 1, 5])
def test_round_trip_across_chunks(bits: int, extra: int) -> None:
    count = (1 << 20) + extra
    codes = torch.randint(0, 2**bits, (count,), generator=torch.Generator().manual_seed(bits))
    codes = codes.to(torch.uint8)
    packed = pack(codes, bits)
    assert bytes(packed[: 3 * bits].tolist()) == oracle(codes[:24].tolist(), bits)
    assert torch.equal(unpack(packed, bits, count), codes)


@pytest.mark.parametrize("bits", range(1, 9))
def test_transposed_and_sliced_tensors_are_read_in_row_major_order(bits: int) -> None:
    codes = (torch.arange(60) % 2**bits).to(torch.uint8).reshape(6, 10).t()[::2]
    packed = pack(codes, bits)
    assert bytes(packed.tolist()) == oracle(codes.flatten().tolist(), bits)
    assert torch.equal(unpack(packed, bits, codes.shape), codes)


@given(st.integers(1, 7), st.integers(0, 40), st.data())
@settings(deadline=None)
def test_a_code_that_does_not_fit_is_refused(bits: int, place: int, data: st.DataObject) -> None:
    codes = torch.zeros(41, dtype=torch.uint8)
    codes[place] = data.draw(st.integers(2**bits, 255))
    with pytest.raises(ValueError, match=f"does not fit into {bits} bits"):
        pack(codes, bits)


@pytest.mark.parametrize("bits", [-1, 0, 9, 64])
def test_impossible_widths_are_refused(bits: int) -> None:
    for call in (
        lambda: pack(torch.zeros(3, dtype=torch.uint8), bits),
        lambda: unpack(torch.zeros(3, dtype=torch.uint8), bits, 3),
        lambda: packed_size(3, bits),
    ):
        with pytest.raises(ValueError, match="1 to 8 bits"):
            call()


def test_other_dtypes_and_wrong_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="must be uint8"):
        pack(torch.zeros(3, dtype=torch.int64), 4)
    with pytest.raises(ValueError, match="need uint8"):
        unpack(torch.zeros(2, dtype=torch.int64), 4, 4)
    for length in (0, 1, 3):
        with pytest.raises(ValueError, match="4 codes of 4 bits need"):
            unpack(torch.zeros(length, dtype=torch.uint8), 4, 4)
    with pytest.raises(ValueError, match="negative"):
        unpack(torch.zeros(2, dtype=torch.uint8), 4, (-2, -2))
