"""Model directories as people have them: variants, shards, training folders, revisions on the hub."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file
from transformers import SamModel

from saqsam.checkpoints.load import load_float
from saqsam.errors import CheckpointError, UsageError
from saqsam.models.device import check_device


@pytest.fixture
def directory(tiny_sam: SamModel, tmp_path: Path) -> Path:
    path = tmp_path / "sam"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(tiny_sam.config.to_dict(), default=str))
    save_file({n: t.clone() for n, t in tiny_sam.state_dict().items()}, path / "model.safetensors")
    return path


def assert_is(source: Path | str, model: SamModel) -> None:
    loaded = load_float(source).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())


def test_a_variant_is_taken_where_there_is_one(directory: Path, tiny_sam: SamModel) -> None:
    (directory / "model.safetensors").rename(directory / "model.fp16.safetensors")
    assert_is(directory, tiny_sam)
    shutil.copy(directory / "model.fp16.safetensors", directory / "model.bf16.safetensors")
    with pytest.raises(CheckpointError, match=r"several variants .*model\.bf16.*, model\.fp16"):
        load_float(directory)


def test_sharded_torch_weights_and_the_path_of_an_index(directory: Path, tiny_sam: SamModel) -> None:
    (directory / "model.safetensors").unlink()
    items = list(tiny_sam.state_dict().items())
    files = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
    for file, part in zip(files, (items[:90], items[90:]), strict=True):
        torch.save(dict(part), directory / file)
    weight_map = {name: files[number >= 90] for number, (name, _) in enumerate(items)}
    index = directory / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert_is(directory, tiny_sam)
    assert_is(index, tiny_sam)
    with pytest.raises(CheckpointError, match="one shard of several"):
        load_float(directory / files[0])
    with pytest.raises(CheckpointError, match="Give the directory that it lies in"):
        load_float(directory / "config.json")


def test_the_last_checkpoint_of_a_training_folder_is_taken_and_named(
    directory: Path, tiny_sam: SamModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    (run / "checkpoint-900").mkdir(parents=True)
    (run / "checkpoint-x").mkdir()
    shutil.copytree(directory, run / "checkpoint-1000")
    with caplog.at_level(logging.WARNING, "saqsam"):
        assert_is(run, tiny_sam)
    assert "2 checkpoints; taking the last one, checkpoint-1000" in caplog.text


def test_a_revision_that_alone_is_cached(
    directory: Path, tiny_sam: SamModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    commit, model = "a" * 40, tmp_path / "models--some--sam"
    shutil.copytree(directory, model / "snapshots" / commit)
    (model / "refs").mkdir()
    (model / "refs" / "v1.0").write_text(commit)
    for revision in ("v1.0", commit):
        assert_is(f"some/sam@{revision}", tiny_sam)
    for missing in ("some/sam", "some/sam@v2"):
        with pytest.raises(CheckpointError, match=r"On this machine there is some/sam@v1\.0"):
            load_float(missing)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("https://huggingface.co/facebook/sam-vit-base", "give 'facebook/sam-vit-base'"),
        ("https://example.org/sam.pth", "download it first"),
        ("/dev/null", "is a pipe or a device"),
    ],
)
def test_what_is_no_file_is_called_by_its_name(name: str, words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_float(name)
    assert words in str(caught.value)


@pytest.mark.parametrize("device", ["meta", "cuda:99", "abacus", ""])
def test_devices_that_cannot_be_used_say_which_can(device: str) -> None:
    with pytest.raises(UsageError, match=r"cannot be used here \(.*\); give cpu"):
        check_device(device)
