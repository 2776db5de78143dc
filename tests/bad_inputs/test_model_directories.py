"""Model directories whose configuration or index is missing, damaged or untrue."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import SamModel

from saqsam.checkpoints.config import checked_config
from saqsam.checkpoints.load import load_float
from saqsam.checkpoints.official import plain_config
from saqsam.errors import CheckpointError

State = OrderedDict[str, Tensor]
Refused = Callable[..., str]
Attempt = Callable[[Path], CheckpointError | None]
Bounded = Callable[..., AbstractContextManager[None]]


@pytest.fixture
def directory(tiny_sam: SamModel, tmp_path: Path) -> Path:
    path = tmp_path / "sam"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(tiny_sam.config.to_dict(), default=str))
    save_file({n: t.clone() for n, t in tiny_sam.state_dict().items()}, path / "model.safetensors")
    load_float(path)
    return path


def test_a_directory_without_a_configuration_or_weights(directory: Path, refused: Refused) -> None:
    config = (directory / "config.json").read_bytes()
    (directory / "config.json").unlink()
    assert "no config.json in it" in refused(directory)
    (directory / "model.safetensors").unlink()
    (directory / "config.json").write_bytes(config)
    assert "no weights in it, none of model.safetensors" in refused(directory)


# What the tensors do not tell, and what may differ between models that are all right.
UNCHECKED = ("num_attention_heads", "hidden_act")
PARTS = ("vision_config", "prompt_encoder_config", "mask_decoder_config")


def test_no_configuration_makes_a_wrong_model_or_a_large_one(
    directory: Path, attempt: Attempt, bounded: Bounded
) -> None:
    path = directory / "config.json"
    good = json.loads(path.read_text())
    sizes = plain_config(checked_config(path, good))
    accepted = 0
    with bounded(200, 60):
        for part in PARTS:
            for key in good[part]:
                for value in (0, -1, 2, 10**9, 10**30, "x", None, [1, 2], 1.5, {}, True, float("nan")):
                    told = {**good, part: {**good[part], key: value}}
                    try:
                        config = checked_config(path, told)
                    except CheckpointError:
                        continue
                    accepted += 1
                    if plain_config(config) == sizes:
                        continue
                    # Possible for some SAM: then the weights decide.
                    path.write_text(json.dumps(told))
                    error = attempt(directory)
                    assert error is not None or key in UNCHECKED, (key, value)
    assert accepted > 20


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not readable as JSON"),
        (b"{", "not readable as JSON"),
        (b"[1, 2]", "not a JSON object"),
        (b"\xff\xfe", "not readable as JSON"),
        (b"[" * 100_000, "not readable as JSON"),
        (b'{"a": ' + b" " * 2**20 + b"1}", "larger than"),
        (b"{}", "describes a None, not a 'sam'"),
        (b'{"model_type": "sam3"}', "describes a 'sam3', not a 'sam'"),
        (b'{"model_type": "sam2"}', "weights of a SAM, the config.json with it describes a SAM 2"),
        (b'{"model_type": "sam", "vision_config": 5}', "vision_config is not a table"),
        (b'{"model_type": "sam", "vision_config": {"hidden_size": 1000000000}}', "hidden_size is 1000000000"),
        (b'{"model_type": "sam", "vision_config": {"num_hidden_layers": 65536}}', "layers is 65536"),
        (b'{"model_type": "sam", "vision_config": {"num_hidden_layers": 250}}', "more than there are"),
        (b'{"model_type": "sam"}', "tensors are missing (vision_encoder.layers.4."),
    ],
)
def test_configurations_that_are_none(directory: Path, content: bytes, words: str, bounded: Bounded) -> None:
    (directory / "config.json").write_bytes(content)
    with bounded():
        assert words in refusal_in(directory)


def refusal_in(directory: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_float(directory)
    assert str(directory) in str(caught.value)
    assert caught.value.hint
    return str(caught.value)


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ({"weight_map": {"a": "../secret.safetensors"}}, "a shard outside its directory"),
        ({"weight_map": {"a": "/etc/passwd"}}, "a shard outside its directory"),
        ({"weight_map": {"a": "absent.safetensors"}}, "'absent.safetensors', which is not beside it"),
        ({"weight_map": {"a": 5}}, "has no 'weight_map'"),
        ({"weight_map": []}, "has no 'weight_map'"),
        ({}, "has no 'weight_map'"),
        ({"weight_map": {"a": "part.safetensors", "b": "again.safetensors"}}, "in two of its shards"),
        ({"weight_map": {"a": "part.safetensors"}}, "asks for 4 layers, more than there are tensors"),
    ],
)
def test_an_index_of_shards_that_is_wrong(directory: Path, index: dict[str, Any], words: str) -> None:
    (directory / "model.safetensors").unlink()
    save_file({"vision_encoder.pos_embed": torch.ones(1, 8, 8, 48)}, directory / "part.safetensors")
    save_file({"vision_encoder.pos_embed": torch.zeros(1, 8, 8, 48)}, directory / "again.safetensors")
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    assert words in refusal_in(directory)
