"""SAM 3's tracker out of files that hold more, there and back bit for bit, and what is said of bad ones."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import GatedRepoError
from safetensors.torch import load_file, save_file
from tests.families.sam2_models import tiny_sam2
from tests.families.sam3_models import tiny_sam3
from transformers import Sam3TrackerModel

from saqsam.checkpoints.load import load_float
from saqsam.checkpoints.official import write_official
from saqsam.errors import CheckpointError
from saqsam.families.sam3_sizes import SAM3_NAMING

TRUNK = "detector.backbone.vision_backbone.trunk."


@pytest.fixture(scope="module")
def model() -> Sam3TrackerModel:
    return tiny_sam3()


@pytest.fixture(scope="module")
def official(model: Sam3TrackerModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("official") / "mine.pt"
    write_official(model, path)
    return path


def same(one: Any, other: Any) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_there_and_back_is_bit_equal(model: Sam3TrackerModel, official: Path, tmp_path: Path) -> None:
    loaded = load_float(official)
    assert same(loaded, model)
    write_official(loaded, tmp_path / "again.pt")
    first, second = (torch.load(path, weights_only=True) for path in (official, tmp_path / "again.pt"))
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)
    own = model.state_dict()
    fused = [own[f"vision_encoder.backbone.layers.2.attention.{name}_proj.bias"] for name in ("q", "k", "v")]
    assert torch.equal(first[f"{TRUNK}blocks.2.attn.qkv.bias"], torch.cat(fused))
    assert first[f"{TRUNK}pos_embed"].shape == (1, 10, 32)  # with a row for a class token
    assert "tracker.sam_mask_decoder.transformer.layers.1.mlp.lin2.weight" in first


def test_what_a_whole_sam_3_has_beside_it_is_left_out_and_named(
    model: Sam3TrackerModel, official: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = torch.load(official, weights_only=True)
    metadata = state._metadata
    state |= {f"{TRUNK}blocks.0.attn.freqs_cis": torch.ones(9, 8, dtype=torch.complex64)}
    state |= {f"detector.backbone.language_backbone.encoder.{i}.weight": torch.ones(3) for i in range(2)}
    state |= {
        "detector.transformer.decoder.norm.bias": torch.ones(3),
        "tracker.maskmem_tpos_enc": torch.ones(2),
    }
    state |= {"detector.backbone.vision_backbone.sam2_convs.3.conv_1x1.bias": torch.ones(32)}
    state._metadata = metadata
    torch.save({"model": state}, tmp_path / "whole.pt")
    assert same(load_float(tmp_path / "whole.pt"), model)
    assert "detector.transformer.decoder.norm.bias, tracker.maskmem_tpos_enc" in caplog.text


def test_directories_of_the_tracker_and_of_a_whole_sam_3(
    model: Sam3TrackerModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    four = tiny_sam3(levels=4)
    four.save_pretrained(tmp_path)
    loaded = load_float(tmp_path)
    assert loaded.config.vision_config.scale_factors == [4.0, 2.0, 1.0]
    wanted = {name: x for name, x in four.state_dict().items() if ".fpn_layers.3." not in name}
    assert loaded.state_dict().keys() == wanted.keys()
    assert all(torch.equal(loaded.state_dict()[name], wanted[name]) for name in wanted)
    assert not any(buffer.is_meta for buffer in loaded.buffers())

    held = load_file(tmp_path / "model.safetensors")
    inner = ("detector_model.", "tracker_neck.")
    whole = {
        name.removeprefix("tracker_model.")
        if name.removeprefix("tracker_model.").startswith(inner)
        else name: x
        for name, x in held.items()
    }
    whole |= {"detector_model.mask_decoder.iou_token.weight": torch.ones(3)}
    whole |= {f"detector_model.text_encoder.{i}": torch.ones(3) for i in range(2)}
    whole |= {
        "detector_model.detr_decoder.a": torch.ones(1),
        "tracker_model.memory_attention.b": torch.ones(1),
    }
    twice = {name.replace("tracker_model.", "tracker_model.tracker_model."): x for name, x in whole.items()}
    config = json.loads((tmp_path / "config.json").read_text())
    config = {"model_type": "sam3_video", "detector_config": {}, "tracker_config": config}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for names in (twice, whole):  # transformers 5.23 puts the tracker's prefix twice when it saves all again
        save_file(names, tmp_path / "model.safetensors")
        assert same(load_float(tmp_path), loaded)
    for told in ("detector_model.text_encoder (2 tensors)", "detr_decoder.a", "memory_attention.b"):
        assert told in caplog.text


def test_a_published_size_needs_no_config() -> None:
    shapes = {
        "vision_encoder.backbone.layer_norm.weight": (1024,),
        **{f"vision_encoder.backbone.layers.{i}.layer_norm1.weight": (1024,) for i in range(32)},
    }
    assert SAM3_NAMING.size_of(shapes) == "sam3"
    assert SAM3_NAMING.size_of({**shapes, "vision_encoder.backbone.layers.32.a": (1,)}) is None


def said(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_float(path)
    return str(caught.value)


def test_files_that_are_another_than_they_seem_are_refused(official: Path, tmp_path: Path) -> None:
    state = dict(torch.load(official, weights_only=True))
    torch.save(state, tmp_path / "sizes.pt")
    assert "has 32 channels and 3 blocks, which no published SAM 3 has" in said(tmp_path / "sizes.pt")
    torch.save(torch.load(official, weights_only=True), tmp_path / "sam2.1_hiera_tiny.pt")
    assert "its name says SAM 2, its weights are those of SAM 3" in said(tmp_path / "sam2.1_hiera_tiny.pt")
    write_official(tiny_sam2(), tmp_path / "sam3.pt")
    assert "its name says SAM 3, its weights are those of SAM 2" in said(tmp_path / "sam3.pt")
    without = {name: x for name, x in state.items() if not name.startswith("tracker.")}
    torch.save(without, tmp_path / "text.pt")
    assert "a SAM 3's detector alone, which finds things by text" in said(tmp_path / "text.pt")
    whole = torch.load(official, weights_only=True)
    del whole["tracker.sam_mask_decoder.output_upscaling.1.bias"]
    torch.save(whole, tmp_path / "cut.pt")
    assert "1 tensors are missing (tracker.sam_mask_decoder.output_upscaling.1.bias)" in said(
        tmp_path / "cut.pt"
    )
    complex = torch.ones((1, 1, 32), dtype=torch.complex64)
    torch.save({**state, "tracker.no_mem_embed": complex}, tmp_path / "complex.pt")
    assert "'tracker.no_mem_embed' is not a plain dense tensor" in said(tmp_path / "complex.pt")
    torch.save({**state, f"{TRUNK}blocks.0.attn.qkv.bias": torch.ones(97)}, tmp_path / "fused.pt")
    assert "holds 3 tensors as one with shape (97,)" in said(tmp_path / "fused.pt")
    (tmp_path / "half.pt").write_bytes(official.read_bytes()[:40_000])
    assert "damaged or truncated" in said(tmp_path / "half.pt")


def test_a_config_of_another_family_is_refused(model: Sam3TrackerModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    tiny_sam2().config.save_pretrained(tmp_path)
    assert "holds the weights of a SAM 3, the config.json with it describes a SAM 2" in said(tmp_path)


Change = Callable[[dict[str, Any]], None]
BACKBONE = "backbone_config"
HOSTILE: dict[str, tuple[Change, str]] = {
    "endless blocks": (
        lambda c: c["vision_config"][BACKBONE].update(num_hidden_layers=256),
        "more than there are tensors",
    ),
    "no table": (lambda c: c["vision_config"].update(backbone_config=3), "is not a table"),
    "huge tables": (
        lambda c: (
            c["vision_config"][BACKBONE].update(image_size=14 * 4000),
            c["prompt_encoder_config"].update(image_size=14 * 4000),
            c["vision_config"].update(backbone_feature_sizes=[[4000 * i] * 2 for i in (4, 2, 1)]),
        ),
        "a grid of 4000 tokens",
    ),
    "wide window": (lambda c: c["vision_config"][BACKBONE].update(window_size=9), "with windows of 9"),
    "other positions": (
        lambda c: c["vision_config"][BACKBONE].update(rope_parameters={"rope_type": "os", "rope_theta": 1.0}),
        "rope_parameters is",
    ),
    "heads": (
        lambda c: c["vision_config"][BACKBONE].update(num_attention_heads=3),
        "is no multiple of 4 channels for each of its heads",
    ),
    "sides": (lambda c: c["prompt_encoder_config"].update(image_size=56), "coordinates would be off"),
    "levels": (lambda c: c["vision_config"].update(scale_factors=[8.0]), "scale_factors is"),
    "activation": (lambda c: c["mask_decoder_config"].update(hidden_act="os.system"), "hidden_act is"),
    "video": (
        lambda c: c.update(model_type="sam3_video", tracker_config=3),
        "its tracker_config is not a table",
    ),
    "text": (lambda c: c.update(model_type="sam3"), "describes a 'sam3', not a 'sam'"),
}


def test_hostile_configs_are_refused_by_what_is_wrong(model: Sam3TrackerModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    good = json.loads((tmp_path / "config.json").read_text())
    for name, (change, words) in HOSTILE.items():
        bad = copy.deepcopy(good)
        change(bad)
        (tmp_path / "config.json").write_text(json.dumps(bad))
        assert words in said(tmp_path), name


def test_a_gated_model_is_told_with_the_way_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    response: Any = SimpleNamespace(headers={}, request=None)

    def refused(*given: object, **named: object) -> None:
        raise GatedRepoError("gated", response=response)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refused)
    with pytest.raises(CheckpointError) as caught:
        load_float("facebook/sam3")
    for words in ("accepted its licence", "https://huggingface.co/facebook/sam3", "hf auth login"):
        assert words in str(caught.value)
