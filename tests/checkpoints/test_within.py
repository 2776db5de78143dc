"""Weights as training programs leave them: what stands before the SAM's names, and what lies beside it."""

from __future__ import annotations

import logging
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.serialization import set_crc32_options
from transformers import SamModel

from saqsam.checkpoints.load import load_float
from saqsam.checkpoints.official import write_official
from saqsam.errors import CheckpointError, CorruptCheckpoint

State = dict[str, Tensor]


@pytest.fixture
def state(tiny_sam: SamModel, tmp_path: Path) -> State:
    write_official(tiny_sam, tmp_path / "good.pth")
    loaded: State = torch.load(tmp_path / "good.pth", weights_only=True)
    return loaded


def named(state: State, prefix: str) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def other(state: State) -> State:
    return {name: tensor + 1 for name, tensor in state.items()}


def assert_is(path: Path, model: SamModel) -> None:
    loaded = load_float(path).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    "prefix", ["model.", "sam.", "model.module.", "_orig_mod.", "base_model.model.", "a.b.c.d.e.", "学生."]
)
def test_whatever_stands_before_the_names_is_taken_off(
    state: State, tiny_sam: SamModel, tmp_path: Path, prefix: str
) -> None:
    torch.save(named(state, prefix), tmp_path / "x.pth")
    assert_is(tmp_path / "x.pth", tiny_sam)


@pytest.mark.parametrize("word", ["state_dict", "model_state", "net", "weights", "anything else"])
def test_a_dictionary_of_any_name_around_them_is_taken_off(
    state: State, tiny_sam: SamModel, tmp_path: Path, word: str
) -> None:
    torch.save({word: state, "epoch": 3, "best": None}, tmp_path / "x.pth")
    assert_is(tmp_path / "x.pth", tiny_sam)


def test_what_a_file_is_its_content_says_and_not_its_name(
    state: State, tiny_sam: SamModel, tmp_path: Path
) -> None:
    torch.save(state, tmp_path / "x.safetensors")
    assert_is(tmp_path / "x.safetensors", tiny_sam)


Content = Callable[[State], Any]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (lambda s: {**s, "criterion.weight": torch.ones(2)}, ["criterion.weight"]),
        (
            lambda s: {
                "model": named(s, "module."),
                "ema": other(s),
                "optimizer": {"state": {0: {"m": torch.ones(2), "v": torch.ones(2)}}, "param_groups": []},
            },
            ["ema (202 tensors)", "optimizer (2 tensors)"],
        ),
        (
            lambda s: {"model": named(s, "module."), "criterion.weight": torch.ones(2), "a.b": {"c.d": {}}},
            ["criterion.weight"],
        ),
        (lambda s: {**named(s, "model."), **named(other(s), "ema.module.")}, ["ema (202 tensors)"]),
        (
            lambda s: {**named(s, "student.sam."), **named(other(s), "teacher.sam.")},
            ["teacher (202 tensors)"],
        ),
    ],
)
def test_what_lies_beside_the_sam_is_named_and_left_out(
    state: State,
    tiny_sam: SamModel,
    tmp_path: Path,
    content: Content,
    told: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    torch.save(content(state), tmp_path / "x.pth")
    with caplog.at_level(logging.WARNING, "saqsam"):
        assert_is(tmp_path / "x.pth", tiny_sam)
    message = next(text for text in caplog.messages if "left out" in text)
    assert str(tmp_path / "x.pth") in message
    assert all(words in message for words in told)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            lambda s: {**named(s, "a."), **named(other(s), "b.")},
            "2 whole SAMs, whose names begin with 'a.'",
        ),
        (
            lambda s: {**named(s, "m."), "m.image_encoder.blocks.0.attn.qkv.lora_A.weight": torch.ones(2)},
            "adapters (LoRA)",
        ),
        (lambda s: {"net": {"layer1.0.conv1.weight": torch.ones(2)}}, "the weights of a ResNet"),
        (
            lambda s: {"net": {"a.weight": torch.ones(2)}},
            "not the weights of a SAM (its tensors: net.a",
        ),
        (lambda s: {**named(s, "m."), "m.mask_decoder.new": torch.ones(2)}, "unexpected (mask_decoder.new)"),
    ],
)
def test_what_is_no_sam_or_no_single_one_is_said(
    state: State, tmp_path: Path, content: Content, words: str
) -> None:
    torch.save(content(state), tmp_path / "x.pth")
    with pytest.raises(CheckpointError) as caught:
        load_float(tmp_path / "x.pth")
    assert words in str(caught.value)
    assert caught.value.hint


def test_every_flipped_bit_of_a_value_is_noticed(state: State, tmp_path: Path) -> None:
    path, chance = tmp_path / "good.pth", random.Random(4)
    raw = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        records = [info for info in archive.infolist() if "/data/" in info.filename]
    for _ in range(40):
        info = chance.choice(records)
        lengths = raw[info.header_offset + 26 : info.header_offset + 30]
        start = info.header_offset + 30 + sum(lengths[::2]) + 256 * sum(lengths[1::2])
        damaged = bytearray(raw)
        damaged[start + chance.randrange(info.file_size)] ^= 1 << chance.randrange(8)
        (tmp_path / "flipped.pth").write_bytes(damaged)
        with pytest.raises(CorruptCheckpoint, match="CRC-32"):
            load_float(tmp_path / "flipped.pth")


def test_a_file_written_without_checksums_is_read_and_that_is_said(
    state: State, tiny_sam: SamModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    set_crc32_options(False)
    try:
        torch.save(state, tmp_path / "x.pth")
    finally:
        set_crc32_options(True)
    assert_is(tmp_path / "x.pth", tiny_sam)
    assert "written without checksums" in caplog.text


@pytest.mark.parametrize("padded", [False, True])
def test_a_file_with_a_published_name_must_be_that_file(state: State, tmp_path: Path, padded: bool) -> None:
    path = (tmp_path / "good.pth").rename(tmp_path / "sam_vit_b_01ec64.pth")
    if padded:  # the right size, by a hole at the end that takes no room on the disk
        with path.open("r+b") as file:
            file.truncate(375_042_383)
    with pytest.raises(CheckpointError) as caught:
        load_float(path)
    assert padded or "has 375,042,383" in str(caught.value)
    assert caught.value.hint


def test_the_state_of_a_quantized_model_is_not_taken_for_a_float_one(
    packed_nano: Callable[[str], Path], tmp_path: Path
) -> None:
    from saqsam import api

    model = api.load(packed_nano("rtn-w8a8")).model
    torch.save(model.state_dict(), tmp_path / "q.pth")
    torch.save({"net": model.state_dict()}, tmp_path / "wrapped.pth")
    for name in ("q.pth", "wrapped.pth"):
        with pytest.raises(CheckpointError, match="state_dict of a quantized saqsam model") as caught:
            load_float(tmp_path / name)
        assert "Sam.save(" in caught.value.hint
