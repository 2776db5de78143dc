"""A packed model by its hub id: what the hub's cache holds is opened, without a network."""

from __future__ import annotations

import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from transformers import SamModel

import saqsam
from saqsam.errors import CheckpointError

NAME = "somebody/nano-w4a4"


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The snapshot of a model in a cache as the hub's own library keeps it, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    model = tmp_path / f"models--{NAME.replace('/', '--')}"
    snapshot = model / "snapshots" / ("0" * 40)
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(snapshot.name)
    return snapshot


def test_a_packed_model_is_loaded_by_its_name(saved: Path, cached: Path) -> None:
    shutil.copytree(saved, cached)
    here, there = saqsam.load(saved), saqsam.load(NAME)
    assert (there.name, there.bits) == (NAME, here.bits)
    for name, value in here.model.state_dict().items():
        assert torch.equal(value, there.model.state_dict()[name])
    assert isinstance(SamModel.from_pretrained(NAME), SamModel)


def test_a_name_that_is_not_at_hand(cached: Path) -> None:
    del cached
    with pytest.raises(CheckpointError, match="somebody/else: not on this machine"):
        saqsam.load("somebody/else")


def test_a_name_too_long_for_a_file_is_refused_in_words() -> None:
    with pytest.raises(CheckpointError, match="A model is nano"):
        saqsam.load("a/" + "b" * 5000)
