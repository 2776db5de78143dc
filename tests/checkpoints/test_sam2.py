"""SAM 2 from official files and directories, there and back bit for bit, and what is said of bad ones."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.families.sam2_models import tiny_sam2
from transformers import Sam2Model, SamModel

from saqsam.checkpoints.load import load_float
from saqsam.checkpoints.official import write_official
from saqsam.errors import CheckpointError
from saqsam.families.sam2_sizes import SAM2_NAMING


@pytest.fixture(scope="module")
def model() -> Sam2Model:
    return tiny_sam2()


@pytest.fixture(scope="module")
def official(model: Sam2Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("official") / "mine.pt"
    write_official(model, path)
    return path


def same(one: Any, other: Any) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_there_and_back_is_bit_equal(model: Sam2Model, official: Path, tmp_path: Path) -> None:
    loaded = load_float(official)
    assert same(loaded, model)
    write_official(loaded, tmp_path / "again.pt")
    first, second = (
        torch.load(path, weights_only=True)["model"] for path in (official, tmp_path / "again.pt")
    )
    assert list(first) == list(second)
    assert {"sam_prompt_encoder.point_embeddings.3.weight", "no_mem_embed"} <= set(first)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_only_video_needs_is_left_out_and_named(
    model: Sam2Model, official: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = dict(torch.load(official, weights_only=True)["model"])
    metadata = torch.load(official, weights_only=True)["model"]._metadata
    held = type(torch.load(official, weights_only=True)["model"])(state)
    held |= {f"memory_attention.layers.{i}.norm1.weight": torch.ones(8) for i in range(2)}
    held |= {"maskmem_tpos_enc": torch.ones(2), "no_obj_ptr": torch.ones(1, 8)}
    held._metadata = metadata
    torch.save({"model": held}, tmp_path / "video.pt")
    assert same(load_float(tmp_path / "video.pt"), model)
    assert "memory_attention (2 tensors), maskmem_tpos_enc, no_obj_ptr" in caplog.text


def test_directories_of_image_and_of_video_models(model: Sam2Model, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    assert same(load_float(tmp_path), model)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "sam2_video", "num_maskmem": 7, "memory_attention_num_layers": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert same(load_float(tmp_path), model)


def test_a_published_size_needs_no_config() -> None:
    shapes = {
        "vision_encoder.backbone.patch_embed.projection.weight": (144, 3, 7, 7),
        **{f"vision_encoder.backbone.blocks.{i}.norm1.weight": (144,) for i in range(48)},
    }
    assert SAM2_NAMING.size_of(shapes) == "hiera_large"
    assert SAM2_NAMING.size_of({**shapes, "vision_encoder.backbone.blocks.48.norm1.weight": (1,)}) is None


def said(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_float(path)
    return str(caught.value)


def test_an_unknown_size_without_a_config_is_refused(official: Path, tmp_path: Path) -> None:
    state = torch.load(official, weights_only=True)["model"]
    torch.save({"model": dict(state)}, tmp_path / "sizes.pt")
    assert "begins with 16 channels and has 7 blocks" in said(tmp_path / "sizes.pt")


def test_names_that_promise_another_model_are_refused(
    official: Path, tiny_sam: SamModel, tmp_path: Path
) -> None:
    write_official(tiny_sam, tmp_path / "sam2.1_hiera_tiny.pt")
    assert "its name says SAM 2, its weights are those of SAM" in said(tmp_path / "sam2.1_hiera_tiny.pt")
    for name, words in (
        ("sam_vit_b_01ec64.pth", "its name says SAM, its weights are those of SAM 2"),
        ("sam2.1_hiera_small.pt", "its name says hiera_small, its weights look like another size"),
    ):
        state = torch.load(official, weights_only=True)
        torch.save(state, tmp_path / name)
        assert words in said(tmp_path / name) or "published file of this name" in said(tmp_path / name)


def test_a_config_of_the_other_family_is_refused(
    model: Sam2Model, tiny_sam: SamModel, tmp_path: Path
) -> None:
    for own, other in ((model, tiny_sam), (tiny_sam, model)):
        directory = tmp_path / type(own).__name__
        own.save_pretrained(directory)
        other.config.save_pretrained(directory)
        found = said(directory)
        assert "the config.json with it describes a SAM" in found
        assert "Give the config.json that belongs to these weights" in found


Change = Callable[[dict[str, Any]], None]
BACKBONE = "backbone_config"
HOSTILE: dict[str, tuple[Change, str]] = {
    "five stages": (
        lambda c: c["vision_config"][BACKBONE]["blocks_per_stage"].append(1),
        "blocks_per_stage is",
    ),
    "endless blocks": (
        lambda c: c["vision_config"][BACKBONE].update(blocks_per_stage=[1, 2, 250, 1]),
        "more than there are tensors",
    ),
    "no table": (lambda c: c["vision_config"].update(backbone_config=3), "is not a table"),
    "other stride": (lambda c: c["vision_config"][BACKBONE].update(patch_stride=[8, 8]), "patch_stride is"),
    "odd window": (
        lambda c: c["vision_config"][BACKBONE].update(window_size_per_stage=[8, 5, 6, 3]),
        "windows of queries that are pooled (5) is no multiple of 2",
    ),
    "heads": (
        lambda c: c["vision_config"][BACKBONE].update(num_attention_heads_per_stage=[1, 3, 4, 8]),
        "is no multiple of its number of heads (3)",
    ),
    "sides": (lambda c: c["prompt_encoder_config"].update(image_size=64), "coordinates would be off"),
    "levels": (
        lambda c: c["vision_config"].update(backbone_feature_sizes=[[1, 1], [1, 1], [1, 1]]),
        "backbone_feature_sizes are",
    ),
    "layers": (lambda c: c["mask_decoder_config"].update(num_hidden_layers=10**9), "num_hidden_layers is"),
    "activation": (lambda c: c["mask_decoder_config"].update(hidden_act="os.system"), "hidden_act is"),
    "global": (
        lambda c: c["vision_config"][BACKBONE].update(global_attention_blocks=[99]),
        "global attention in blocks [99]",
    ),
}


def test_hostile_configs_are_refused_by_what_is_wrong(model: Sam2Model, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    good = json.loads((tmp_path / "config.json").read_text())
    for name, (change, words) in HOSTILE.items():
        bad = copy.deepcopy(good)
        change(bad)
        (tmp_path / "config.json").write_text(json.dumps(bad))
        assert words in said(tmp_path), name


def test_a_truncated_file_is_refused(official: Path, tmp_path: Path) -> None:
    data = official.read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[: len(data) // 2])
    assert "damaged or truncated" in said(tmp_path / "cut.pt")
