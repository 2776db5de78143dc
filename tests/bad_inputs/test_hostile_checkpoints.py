"""Weights made to run code, or to take memory and time, when they are opened: none of it happens."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import SamModel

from saqsam.checkpoints import reading as checkpoint
from saqsam.errors import CheckpointError, CorruptCheckpoint, UnsafeCheckpoint

State = OrderedDict[str, Tensor]
Refused = Callable[..., str]
Attempt = Callable[[Path], CheckpointError | None]
Bounded = Callable[..., AbstractContextManager[None]]


# --- files that would run code ---


class Payload:
    """Unpickled, it creates a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.canary}",)


def save_zip(content: object, path: Path) -> None:
    torch.save(content, path)


def save_legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def save_plain(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("name", ["evil.pth", "evil.pt", "evil.bin", "evil"])
@pytest.mark.parametrize("save", [save_zip, save_legacy, save_plain])
@pytest.mark.parametrize("inside", ["alone", "in the state", "beside the state"])
def test_a_pickle_that_runs_a_command_is_refused_and_not_run(
    state: State,
    tmp_path: Path,
    name: str,
    save: Callable[[object, Path], None],
    inside: str,
    refused: Refused,
) -> None:
    canary, path = tmp_path / "canary", tmp_path / name
    payload: Any = Payload(canary)
    if inside == "in the state":
        state["image_encoder.pos_embed"] = payload
    content = {"alone": payload, "in the state": state, "beside the state": {"model": state, "x": payload}}
    save(content[inside], path)
    if path.suffix or save is save_zip or path.read_bytes()[:1] == b"\x80":
        message = refused(path, UnsafeCheckpoint)
        assert f"{os.system.__module__}.system" in message
        assert "nothing was run" in message
    else:
        refused(path)
    assert not canary.exists()


def archive(path: Path, data: bytes, name: str = "evil") -> None:
    """A zip archive laid out as PyTorch does, around a pickle of our own."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}/data.pkl", data)
        file.writestr(f"{name}/version", "3\n")


def test_names_hidden_from_a_reader_of_opcodes_are_still_not_run(tmp_path: Path, refused: Refused) -> None:
    canary, path = tmp_path / "canary", tmp_path / "evil.pth"
    # Puts os and system into the memo, then harmless names on top, then fetches the former.
    module = os.system.__module__.encode()
    hidden = b"\x80\x04" + b"".join(
        b"\x8c" + bytes([len(text)]) + text + b"\x94" for text in (module, b"system")
    )
    harmless = b"\x8c\x0bcollections\x8c\x0bOrderedDict"
    command = f"touch {canary}".encode()
    call = b"00h\x00h\x01\x93\x8c" + bytes([len(command)]) + command + b"\x85R."
    archive(path, hidden + b"00" + harmless + call)
    refused(path, UnsafeCheckpoint)
    assert not canary.exists()


def test_a_nested_archive_is_refused(state: State, tmp_path: Path, refused: Refused) -> None:
    inner = io.BytesIO()
    torch.save({"x": Payload(tmp_path / "canary")}, inner)
    path = tmp_path / "nested.pth"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("inner.pth", inner.getvalue())
    assert "not one of PyTorch weights" in refused(path)
    assert not (tmp_path / "canary").exists()


def test_a_whole_module_is_refused_with_its_classes_listed(
    tiny_sam: SamModel, tmp_path: Path, refused: Refused
) -> None:
    torch.save(tiny_sam, tmp_path / "module.pth")
    message = refused(tmp_path / "module.pth", UnsafeCheckpoint)
    assert "torch.save(model.state_dict()" in message
    assert "and" in message
    assert "more)" in message


def test_objects_beside_the_tensors_are_named(state: State, tmp_path: Path, refused: Refused) -> None:
    torch.save({"model": state, "args": argparse.Namespace(lr=1)}, tmp_path / "run.pth")
    assert "argparse.Namespace" in refused(tmp_path / "run.pth", UnsafeCheckpoint)


def test_the_old_format_is_refused_with_the_way_to_convert_it(
    state: State, tmp_path: Path, refused: Refused
) -> None:
    save_legacy(state, tmp_path / "old.pth")
    message = refused(tmp_path / "old.pth")
    assert "before 1.6" in message
    assert "torch.save(torch.load('old.pth', weights_only=True), 'weights.pth')" in message


def test_a_torchscript_program_is_refused(tmp_path: Path, refused: Refused) -> None:
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as file:
        file.writestr("script/data.pkl", pickle.dumps({}))
        file.writestr("script/constants.pkl", pickle.dumps(()))
    assert "TorchScript" in refused(tmp_path / "script.pt")


# --- safetensors with a lying header ---


def write_header(path: Path, header: dict[str, Any] | bytes, payload: int = 0) -> None:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + bytes(payload))


def entry(start: int, end: int, dtype: str = "F32", shape: tuple[int, ...] = (1,)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


@pytest.mark.parametrize(
    "header",
    [
        {"a": entry(0, 4), "b": entry(2, 6)},  # overlap
        {"a": entry(0, 4), "b": entry(0, 4)},  # the same bytes twice
        {"a": entry(4, 8)},  # a hole
        {"a": entry(0, 8)},  # more bytes than the shape has
        {"a": entry(0, 400, shape=(100,))},  # past the end
        {"a": entry(8, 4)},
        {"a": entry(0, 4, shape=(2**62, 2**62, 16))},
        {"a": entry(0, 4, shape=(-1,))},
        {"a": entry(0, 4, dtype="F99")},
        {"a": {"dtype": "F32"}},
        {"a": 5},
        b"not json",
        b"{" * 2000,
        b'{"\xff\xfe": 1}',
        b"[]",
    ],
)
def test_headers_that_contradict_themselves(
    tmp_path: Path, header: dict[str, Any] | bytes, refused: Refused, bounded: Bounded
) -> None:
    write_header(tmp_path / "bad.safetensors", header, payload=8)
    with bounded():
        refused(tmp_path / "bad.safetensors", CorruptCheckpoint)


@pytest.mark.parametrize("length", [99 * 2**20, 2**32, 2**60, 2**64 - 1])
def test_a_huge_header_is_refused_unread(
    tmp_path: Path, length: int, refused: Refused, bounded: Bounded
) -> None:
    path = tmp_path / "bomb.safetensors"
    with path.open("wb") as file:
        file.write(length.to_bytes(8, "little") + b"{")
        file.truncate(min(length, 2**30))
    with bounded(50, 1):
        assert "header claims" in refused(path, CorruptCheckpoint)


def test_a_million_tensors_without_elements_are_refused(
    tmp_path: Path, refused: Refused, bounded: Bounded
) -> None:
    path = tmp_path / "many.safetensors"
    empty = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    write_header(path, ("{" + ",".join(f'"{i}":{empty}' for i in range(1_000_000)) + "}").encode())
    with bounded():
        refused(path)


# --- archives and pickles that swell ---


def test_a_view_larger_than_its_file_is_refused(
    state: State, tmp_path: Path, refused: Refused, bounded: Bounded
) -> None:
    state["image_encoder.pos_embed"] = torch.zeros(1).expand(2**17, 2**17)
    torch.save(state, tmp_path / "bomb.pth")
    with bounded():
        assert "claims 17,179,869,184 elements" in refused(tmp_path / "bomb.pth", CorruptCheckpoint)


@pytest.mark.parametrize("stride", [0, 1])
def test_a_tensor_larger_than_its_storage_is_refused(
    tmp_path: Path, stride: int, refused: Refused, bounded: Bounded
) -> None:
    # A pickle of our own: two floats are stored, the tensor says it has 2**34.
    pickled = (
        b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage"
        b"ctorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x02tQK\x00"
        b"\x8a\x05\x00\x00\x00\x00\x04\x85K" + bytes([stride]) + b"\x85\x89ccollections\nOrderedDict\n)RtRs."
    )
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w") as file:
        file.writestr("bomb/data.pkl", pickled)
        file.writestr("bomb/version", "3\n")
        file.writestr("bomb/data/0", bytes(8))
    with bounded():
        refused(tmp_path / "bomb.pth", CorruptCheckpoint)


def test_many_tensors_of_one_storage_are_refused(tmp_path: Path, refused: Refused, bounded: Bounded) -> None:
    shared = torch.zeros(2**20)
    state = {f"image_encoder.blocks.{i}.attn.qkv.weight": shared for i in range(2000)}
    torch.save(state, tmp_path / "bomb.pth")
    with bounded():
        assert "its tensors claim 8,388,608,000 bytes" in refused(tmp_path / "bomb.pth", CorruptCheckpoint)


def test_a_compressed_archive_is_refused_unread(tmp_path: Path, refused: Refused, bounded: Bounded) -> None:
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("bomb/data.pkl", bytes(2**25))
    assert path.stat().st_size < 2**20
    with bounded():
        assert "compressed" in refused(path, CorruptCheckpoint)


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02" + b"]" * 2_000_000 + b".",
        b"\x80\x02" + b"(" * 400_000 + b".",
        b"\x80\x02" + b"}q\x00" + b"h\x00\x85" * 120_000 + b".",
        b"\x80\x02\x8a\xff" + b"\x01" * 255 + b".",
        b"\x80\x02.",
        b"",
        b"garbage",
        b"\x80\x02K\x05.",
        b"\x80\x02N.",
    ],
)
def test_pickles_that_only_waste_time(
    tmp_path: Path, data: bytes, refused: Refused, bounded: Bounded
) -> None:
    archive(tmp_path / "bomb.pth", data)
    with bounded():
        refused(tmp_path / "bomb.pth")


def test_an_archive_of_too_many_parts_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused, bounded: Bounded
) -> None:
    monkeypatch.setattr(checkpoint, "MAX_TENSORS", 1000)
    path = tmp_path / "parts.pth"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("parts/data.pkl", pickle.dumps({}, protocol=2))
        for i in range(1000):
            file.writestr(f"parts/data/{i}", b"")
    with bounded():
        assert "holds 1,001 entries" in refused(path)
