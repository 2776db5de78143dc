"""Damaged and foreign weights: each is refused with an error that says what is wrong and what to do."""

from __future__ import annotations

import os
import random
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import SamModel

from saqsam.checkpoints.load import load_float
from saqsam.errors import CheckpointError, CorruptCheckpoint, SaqsamError

State = OrderedDict[str, Tensor]
Refused = Callable[..., str]
Attempt = Callable[[Path], CheckpointError | None]
Bounded = Callable[..., AbstractContextManager[None]]


# --- damaged files ---


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_every_truncation_is_noticed(state: State, tmp_path: Path, suffix: str, refused: Refused) -> None:
    path = tmp_path / f"cut{suffix}"
    torch.save(state, path) if suffix == ".pth" else save_file(dict(state), path)
    whole = path.read_bytes()
    lengths = [len(whole) * percent // 100 for percent in range(1, 100, 3)]
    for length in (1, 3, 7, 8, 9, 100, *lengths, len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(path, CorruptCheckpoint)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin", ""])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html>\n<html>404 Not Found</html>", "this is a web page, did the download fail?"),
        (b"  <html><body>Sign in</body></html>", "this is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 375042383\n", "Git LFS pointer"),
        (b"just some text\n", ""),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), ""),
        (b"PK\x03\x04" + bytes(200), "damaged or truncated"),
        (bytes(5000), ""),
    ],
    ids=["empty", "page", "page2", "lfs", "text", "png", "zip", "zeros"],
)
def test_files_that_are_no_weights(
    tmp_path: Path, suffix: str, content: bytes, words: str, refused: Refused
) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)
    assert words in refused(path)


@pytest.mark.parametrize("layout", ["pth", "safetensors"])
def test_flipped_bytes_never_escape_as_another_error(
    state: State, tmp_path: Path, layout: str, attempt: Attempt
) -> None:
    path = tmp_path / f"flipped.{layout}"
    torch.save(state, path) if layout == "pth" else save_file(dict(state), path)
    whole = path.read_bytes()
    # What describes the tensors, where damage does more than change a value.
    if layout == "pth":
        with zipfile.ZipFile(path) as file:
            info = next(i for i in file.infolist() if i.filename.endswith("data.pkl"))
        spans = [(0, info.header_offset + info.file_size + 100), (len(whole) - 4000, len(whole))]
    else:
        spans = [(0, int.from_bytes(whole[:8], "little") + 8)]
    chance = random.Random(7)
    survived = 0
    for _ in range(100):
        damaged = bytearray(whole)
        for _ in range(chance.choice((1, 1, 4))):
            damaged[chance.randrange(*chance.choice(spans))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        error = attempt(path)
        survived += error is None
        assert "\n" not in str(error)
    assert survived < 50


# --- the wrong tensors ---


def ones(*names: str) -> dict[str, Tensor]:
    return {name: torch.ones(2) for name in names}


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (ones("conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "fc.bias"), "the weights of a ResNet"),
        (ones("image_encoder.trunk.pos_embed", "sam_mask_decoder.iou_token.weight"), "fit no SAM 2"),
        (ones("vision_encoder.backbone.pos_embed", "mask_decoder.iou_token.weight"), "fit no SAM 2"),
        (ones("vision_encoder.backbone.layers.0.a", "mask_decoder.iou_token.weight"), "fit no SAM 3"),
        (ones("vision_encoder.backbone.layers.0.a", "detr_decoder.norm.bias"), "a SAM 3's detector alone"),
        (ones("tracker.model.interactive_sam_mask_decoder.a", "tracker.model.b"), "the weights of a SAM 3.1"),
        (ones("image_encoder.patch_embed.seq.0.c.weight", "mask_decoder.iou_token.weight"), "MobileSAM"),
        (ones("encoder.weight", "decoder.weight"), "not the weights of a SAM (its tensors: decoder.weight"),
        (ones("image_encoder.pos_embed"), "'image_encoder.patch_embed.proj.weight' is missing"),
        (ones("mask_decoder.iou_token.weight"), "'vision_encoder.patch_embed.projection.weight' is missing"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_other_models_are_called_by_name(
    tmp_path: Path, tensors: dict[str, Tensor], words: str, suffix: str, refused: Refused
) -> None:
    path = tmp_path / f"other{suffix}"
    torch.save(tensors, path) if suffix == ".pth" else save_file(tensors, path)
    assert words in refused(path)


def test_part_of_a_sam_hq_is_recognised_although_it_has_all_of_sam(
    state: State, tmp_path: Path, refused: Refused
) -> None:
    state["mask_decoder.hf_token.weight"] = torch.ones(1, 32)
    torch.save(state, tmp_path / "hq.pth")
    assert "Give the weights of a SAM-HQ" in refused(tmp_path / "hq.pth")


NECK = "image_encoder.neck.2.weight"
QKV = "image_encoder.blocks.2.attn.qkv.weight"


def with_value(state: State, name: str, value: float) -> None:
    state[name].flatten()[5] = value


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop(NECK), f"1 tensors are missing ({NECK})"),
        (
            lambda s: [s.pop(n) for n in list(s) if ".blocks.3." in n and "mlp" in n],
            "4 tensors are missing (image_encoder.blocks.3.mlp.lin1.weight, ",
        ),
        (
            lambda s: s.update({"mask_decoder.extra": torch.ones(1)}),
            "1 tensors are unexpected (mask_decoder.extra)",
        ),
        (
            lambda s: s.update({"image_encoder.blocks.3.attn.rel_pos_q": torch.ones(1)}),
            "1 tensors are unexpected (image_encoder.blocks.3.attn.rel_pos_q)",
        ),
        (lambda s: s.update({QKV: s[QKV].T.contiguous()}), "(it is transposed)"),
        (lambda s: s.update({QKV: s[QKV][:-1]}), f"'{QKV}' has shape (143, 48), expected (144, 48)"),
        (lambda s: s.update({NECK: s[NECK][..., 0]}), f"'{NECK}' has shape (32, 32, 3), expected"),
        (lambda s: s.update({QKV: s[QKV].to(torch.int8)}), f"'{QKV}' is stored as torch.int8"),
        (lambda s: s.update({QKV: s[QKV] > 0}), f"'{QKV}' is stored as torch.bool"),
        (lambda s: with_value(s, QKV, float("nan")), f"'{QKV}' holds 1 values that are NaN or infinite"),
        (lambda s: with_value(s, QKV, float("-inf")), f"'{QKV}' holds 1 values that are NaN or infinite"),
        (lambda s: s.update({QKV: s[QKV].double() * 1e300}), "that are NaN or infinite"),
        (lambda s: s.update({QKV: s[QKV].to_sparse()}), "_rebuild_sparse_tensor"),
        (lambda s: s.update({QKV: s[QKV].to(torch.complex64)}), ""),
        (lambda s: s.update({QKV: torch.ones(144, 48, device="meta")}), ""),
        (lambda s: s.update({QKV: "text"}), f"entry '{QKV}' is a str"),
        (lambda s: s.update({QKV: {"weight": s[QKV]}}), f"entry '{QKV}' is a dict"),
        (lambda s: s.update({"mask_decoder.iou_token.weight": torch.ones(1)}), "its shapes fit no SAM"),
        (
            lambda s: s.update({"image_encoder.patch_embed.proj.weight": torch.ones(48, 3, 0, 0)}),
            "has shape (48, 3, 0, 0), expected (48, 3, 8, 8)",
        ),
        (
            lambda s: s.update({"image_encoder.patch_embed.proj.weight": torch.ones(48, 1, 8, 8)}),
            "has shape (48, 1, 8, 8), expected (48, 3, 8, 8)",
        ),
        (
            lambda s: s.update({"image_encoder.blocks.1.attn.rel_pos_h": torch.ones(9, 16)}),
            "relative positions of more than two lengths",
        ),
        (
            lambda s: s.update({"image_encoder.blocks.999999999.norm1.bias": torch.ones(48)}),
            "is numbered 999999999",
        ),
        (lambda s: s.update({"vision_encoder.pos_embed": torch.ones(1)}), "under two names"),
    ],
)
def test_a_tensor_that_does_not_belong_is_named_as_the_file_names_it(
    state: State,
    tmp_path: Path,
    change: Callable[[State], object],
    words: str,
    refused: Refused,
    bounded: Bounded,
) -> None:
    change(state)
    torch.save(state, tmp_path / "bad.pth")
    with bounded():
        assert words in refused(tmp_path / "bad.pth")


@pytest.mark.parametrize(
    "content", [{}, [], [torch.ones(1)], torch.ones(3), 5, None, {"model": {}}, {"a": 1}]
)
def test_what_is_no_dictionary_of_tensors(tmp_path: Path, content: object, refused: Refused) -> None:
    torch.save(content, tmp_path / "odd.pth")
    refused(tmp_path / "odd.pth")


def test_tied_tensors_that_differ_are_refused(tiny_sam: SamModel, tmp_path: Path, refused: Refused) -> None:
    state = {name: tensor.clone() for name, tensor in tiny_sam.state_dict().items()}
    state["prompt_encoder.shared_embedding.positional_embedding"] += 1
    save_file(state, tmp_path / "untied.safetensors")
    assert "in a SAM they are one tensor" in refused(tmp_path / "untied.safetensors")


@pytest.mark.parametrize(
    "told",
    [
        5,
        {"mask_decoder_config": 5},
        {"mask_decoder_config": {"num_attention_heads": 0}},
        {"mask_decoder_config": {"num_attention_heads": 7}},
        {"mask_decoder_config": {"num_attention_heads": "2"}},
        {"vision_config": {"hidden_size": 10**9}},
        {"vision_config": {"num_hidden_layers": 60_000}},
        {"vision_config": {"global_attn_indexes": [10**9]}},
        {"prompt_encoder_config": {"image_size": 128}},
    ],
)
def test_a_pth_that_lies_about_its_own_sizes(
    state: State, tmp_path: Path, told: object, attempt: Attempt, bounded: Bounded
) -> None:
    state._metadata = {"saqsam_config": told}  # type: ignore[attr-defined]
    torch.save(state, tmp_path / "lies.pth")
    with bounded():
        error = attempt(tmp_path / "lies.pth")
    if told in (5, {"mask_decoder_config": 5}):
        assert error is None  # it says nothing, so the shapes decide
    else:
        assert str(tmp_path / "lies.pth") in str(error)


# --- names ---


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("nanoo", "Did you mean 'nano'?"),
        ("absent.pth", "no such file or directory"),
        ("absent/model.safetensors", "no such file or directory"),
        ("a/b/c", "no such file or directory"),
        ("~nobody-of-this-name/sam.pth", "not a usable path"),
        ("x" * 5000, ""),
        ("nul\0byte", ""),
        ("", ""),
    ],
)
def test_names_of_nothing(source: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        load_float(source)
    assert words in str(caught.value)
    assert caught.value.hint


def test_an_unreadable_file_or_device(state: State, tmp_path: Path, refused: Refused) -> None:
    path = tmp_path / "good.pth"
    torch.save(state, path)
    with pytest.raises(SaqsamError, match="device 'abacus': cannot be used here"):
        load_float(path, device="abacus")
    fifo = tmp_path / "pipe.pth"
    os.mkfifo(fifo)
    refused(fifo)


def test_an_unreachable_hub_is_said_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError) as caught:
        load_float("saqsam-test/no-such-model")
    assert "the Hugging Face hub cannot be reached" in str(caught.value)


def test_the_layout_of_an_archive_is_what_torch_writes(tmp_path: Path, refused: Refused) -> None:
    """Guards the fixtures above: an archive of ours with a harmless pickle is read."""
    values = struct.pack("<2f", 1.0, 2.0)
    pickled = (
        b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage"
        b"ctorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x02tQK\x00"
        b"K\x02\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtRs."
    )
    with zipfile.ZipFile(tmp_path / "good.pth", "w") as file:
        file.writestr("bomb/data.pkl", pickled)
        file.writestr("bomb/version", "3\n")
        file.writestr("bomb/data/0", values)
    assert "(its tensors: a, ...)" in refused(tmp_path / "good.pth")
