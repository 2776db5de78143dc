"""SAM-HQ's official files: their names written out a second time, there and back, and mixed up with SAM's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.checkpoints.test_official import SIZES, official_shapes, sparse_safetensors
from tests.conftest import make_tiny_sam
from tests.families.tiny_sam_hq import plain_sam_hq

from saqsam.checkpoints.config import checked_config
from saqsam.checkpoints.load import load_float
from saqsam.checkpoints.official import write_official
from saqsam.errors import CheckpointError
from saqsam.families.sam_hq import SAM_HQ
from saqsam.families.sam_hq_model import HQModel


def hq_shapes(size: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of sam_hq_vit_b, l and h.pth."""
    width, depth, heads, global_blocks, _ = SIZES[size]
    shapes = official_shapes(width, depth, heads, global_blocks)
    own = {
        "hf_token.weight": (1, 256),
        "hf_mlp.layers.0.weight": (256, 256),
        "hf_mlp.layers.0.bias": (256,),
        "hf_mlp.layers.1.weight": (256, 256),
        "hf_mlp.layers.1.bias": (256,),
        "hf_mlp.layers.2.weight": (32, 256),
        "hf_mlp.layers.2.bias": (32,),
        "compress_vit_feat.0.weight": (width, 256, 2, 2),
        "compress_vit_feat.0.bias": (256,),
        "compress_vit_feat.1.weight": (256,),
        "compress_vit_feat.1.bias": (256,),
        "compress_vit_feat.3.weight": (256, 32, 2, 2),
        "compress_vit_feat.3.bias": (32,),
        "embedding_encoder.0.weight": (256, 64, 2, 2),
        "embedding_encoder.0.bias": (64,),
        "embedding_encoder.1.weight": (64,),
        "embedding_encoder.1.bias": (64,),
        "embedding_encoder.3.weight": (64, 32, 2, 2),
        "embedding_encoder.3.bias": (32,),
        "embedding_maskfeature.0.weight": (64, 32, 3, 3),
        "embedding_maskfeature.0.bias": (64,),
        "embedding_maskfeature.1.weight": (64,),
        "embedding_maskfeature.1.bias": (64,),
        "embedding_maskfeature.3.weight": (32, 64, 3, 3),
        "embedding_maskfeature.3.bias": (32,),
    }
    return {**shapes, **{f"mask_decoder.{name}": shape for name, shape in own.items()}}


@pytest.mark.parametrize("size", SIZES)
def test_names_shapes_and_sizes_are_those_of_the_official_files(size: str) -> None:
    width, depth, heads, global_blocks, _ = SIZES[size]
    official, layout, naming = hq_shapes(size), SAM_HQ.layout, SAM_HQ.naming
    shapes = layout.to_transformers(official, lambda parts: parts[0])
    parts = naming.parts(shapes, {})
    config: Any = checked_config("some.pth", {"model_type": "sam_hq", **parts})
    vision = config.vision_config
    assert (vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads) == (width, depth, heads)
    assert tuple(vision.global_attn_indexes) == global_blocks
    assert config.mask_decoder_config.vit_dim == width
    with torch.device("meta"):
        model = HQModel(config)
    held = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert held == shapes
    assert layout.to_official(held, lambda whole: [whole]) == official
    assert naming.size_of(shapes) == size


def test_an_official_pth_comes_back_bit_equal_and_so_does_a_directory(tmp_path: Path) -> None:
    plain = plain_sam_hq()
    write_official(plain, tmp_path / "tiny.pth")
    names = set(torch.load(tmp_path / "tiny.pth", weights_only=True))
    assert {"mask_decoder.hf_token.weight", "mask_decoder.hf_mlp.layers.2.bias"} <= names
    plain.save_pretrained(tmp_path / "directory")
    for source in ("tiny.pth", "directory"):
        loaded = load_float(tmp_path / source)
        assert isinstance(loaded, HQModel)
        state = loaded.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in plain.state_dict().items())


def test_sam_and_sam_hq_under_each_others_names_are_told(tmp_path: Path) -> None:
    hq = tmp_path / "sam_hq_vit_l.safetensors"
    sparse_safetensors(hq, hq_shapes("vit_b"))
    with pytest.raises(CheckpointError, match="its name says vit_l, its weights look like vit_b"):
        load_float(hq)
    with pytest.raises(CheckpointError, match="its name says SAM, its weights are those of SAM-HQ"):
        load_float(hq.rename(tmp_path / "sam_vit_b.safetensors"))
    plain = tmp_path / "sam_hq_vit_b.safetensors"
    sparse_safetensors(plain, official_shapes(*SIZES["vit_b"][:4]))  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="its name says SAM-HQ, its weights are those of SAM"):
        load_float(plain)


def test_weights_and_configuration_of_two_families_are_told(tmp_path: Path) -> None:
    make_tiny_sam().save_pretrained(tmp_path / "sam")
    plain_sam_hq().save_pretrained(tmp_path / "hq")
    configs = {name: (tmp_path / name / "config.json").read_text() for name in ("sam", "hq")}
    (tmp_path / "sam" / "config.json").write_text(configs["hq"])
    (tmp_path / "hq" / "config.json").write_text(configs["sam"])
    with pytest.raises(CheckpointError, match=r"weights of a SAM, the config\.json .* describes a SAM-HQ"):
        load_float(tmp_path / "sam")
    with pytest.raises(CheckpointError, match=r"weights of a SAM-HQ, the config\.json .* describes a SAM"):
        load_float(tmp_path / "hq")


@pytest.mark.parametrize(
    ("section", "change", "words"),
    [
        ("mask_decoder_config", {"vit_dim": 64}, "expects 64 channels of early features"),
        ("mask_decoder_config", {"vit_dim": "48"}, "vit_dim is '48', which no SAM-HQ can have"),
        ("mask_decoder_config", {"hq_token_only": 1}, "hq_token_only is 1, which no SAM-HQ can have"),
        ("vision_config", {"global_attn_indexes": []}, "no block has global attention"),
    ],
)
def test_hostile_configurations_are_refused(
    tmp_path: Path, section: str, change: dict[str, Any], words: str
) -> None:
    plain_sam_hq().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config[section].update(change)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=words):
        load_float(tmp_path)
