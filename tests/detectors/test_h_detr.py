"""H-Deformable-DETR against a second implementation that reads the published names and shares no code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.detectors.conftest import awake, read_results
from tests.detectors.plain_backbones import resnet, swin
from tests.detectors.plain_detr import PlainHybridDetr
from tests.detectors.published import published, write_published
from torch import Tensor
from transformers import DeformableDetrConfig, ResNetConfig, SwinConfig

from saqsam.detectors import h_detr
from saqsam.detectors.coco_names import COCO_IDS
from saqsam.detectors.h_detr import (
    HybridDetr,
    HybridDetrDetector,
    h_detr_config,
    h_detr_table,
    load_h_detr,
)
from saqsam.detectors.resize import normalise
from saqsam.errors import CheckpointError

QUERIES = 20
STAGES = ["stage2", "stage3", "stage4"]


def small_config(backbone: str) -> DeformableDetrConfig:
    if backbone == "resnet":
        body: Any = ResNetConfig(
            embedding_size=8, hidden_sizes=[16, 16, 32, 32], depths=[1, 2, 1, 1], out_features=STAGES
        )
    else:
        body = SwinConfig(
            embed_dim=8, depths=[2, 2, 2, 2], num_heads=[1, 2, 2, 4], window_size=3, out_features=STAGES
        )
    return DeformableDetrConfig(
        backbone_config=body,
        use_timm_backbone=False,
        two_stage=True,
        with_box_refine=True,
        num_queries=QUERIES,
        two_stage_num_proposals=QUERIES,
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        num_labels=91,
        dropout=0.0,
    )


def tied(network: HybridDetr) -> HybridDetr:
    """Heads inside the decoder with the values of those outside, as in a published file."""
    state = network.state_dict()
    for name in state:
        if name.startswith(("detr.model.decoder.class_embed", "detr.model.decoder.bbox_embed")):
            state[name].copy_(state["detr." + name.removeprefix("detr.model.decoder.")])
    return network


@pytest.fixture(scope="module", params=["resnet", "swin"])
def backbone(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def network(backbone: str) -> HybridDetr:
    return tied(awake(HybridDetr(small_config(backbone)), seed=4))


@pytest.fixture(scope="module")
def tensors(network: HybridDetr) -> dict[str, Tensor]:
    found = published(network, h_detr_table(network), rows=30)
    repeated = {
        f"transformer.decoder.{name}": value
        for name, value in found.items()
        if name.startswith(("class_embed", "bbox_embed"))
    }
    return {**found, **repeated}


@pytest.fixture
def weights(tensors: dict[str, Tensor], tmp_path: Path) -> Path:
    extra = {"backbone.0.body.layers.0.blocks.0.attn.relative_position_index": torch.zeros(9, 9).long()}
    return write_published({**tensors, **extra}, tmp_path / "h_detr.pth")


def test_logits_and_boxes_agree_with_the_second_implementation(
    backbone: str, tensors: dict[str, Tensor], weights: Path
) -> None:
    detector = load_h_detr("h-detr-r50", weights, config=small_config(backbone))
    image = torch.randn(3, 75, 109, generator=torch.Generator().manual_seed(1))
    plain = PlainHybridDetr(tensors, heads=4)
    if backbone == "resnet":
        maps = resnet(plain, image, "backbone.0.body.", [1, 2, 1, 1])
    else:
        maps = swin(plain, image, "backbone.0.body.", [2, 2, 2, 2], [1, 2, 2, 4], 3)
    wanted_logits, wanted_boxes = plain.answer(maps, 4, QUERIES)
    with torch.no_grad():
        logits, boxes = detector.network(image[None])
    assert logits.std() > 0.1  # alive
    assert (logits - wanted_logits).abs().max() < 2e-5
    assert (boxes - wanted_boxes).abs().max() < 2e-5
    unread = set(tensors) - plain.used
    assert all(name.startswith("transformer.decoder.") and "_embed." in name for name in unread), unread


def test_every_tensor_of_the_file_arrives(network: HybridDetr, backbone: str, weights: Path) -> None:
    found = load_h_detr("h-detr-r50", weights, config=small_config(backbone)).network.state_dict()
    wanted = network.state_dict()
    unused = {name for name in wanted if not torch.equal(found[name], wanted[name])}
    assert unused <= {f"detr.model.backbone.model.swin.layernorm.{leaf}" for leaf in ("weight", "bias")}


def test_boxes_are_read_by_the_papers_protocol(network: HybridDetr) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    found = HybridDetrDetector(network, "h-detr-r50", 25, limits=(90, 90)).detect(pixels)
    with torch.no_grad():
        logits, boxes = network(normalise(torch.from_numpy(pixels).permute(2, 0, 1).float())[None])
    rows = [
        (float(logits[query, key].sigmoid()), label, query)
        for query in range(QUERIES)
        for label, key in enumerate(COCO_IDS)
    ]
    best = sorted(rows, key=lambda one: -one[0])[:25]
    assert found.labels.tolist() == [label for _, label, _ in best]
    assert np.allclose(found.scores.numpy(), [score for score, _, _ in best], atol=1e-6)
    x, y, w, h = boxes[best[0][2]].tolist()
    wanted = [(x - w / 2) * 90, (y - h / 2) * 60, (x + w / 2) * 90, (y + h / 2) * 60]
    assert np.allclose(found.boxes[0].numpy(), wanted, atol=1e-3)


def test_content_queries_are_the_learned_ones(network: HybridDetr) -> None:
    """Without mixed query selection the answer would not change with them."""
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        before = network(image)[0]
        network.query_embed.weight.data.mul_(2)
        after = network(image)[0]
        network.query_embed.weight.data.div_(2)
    assert (before - after).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("name", "channels", "depth"),
    [("h-detr-r50", 2048, 6), ("h-detr-swin-t", 768, 6), ("h-detr-swin-l", 1536, 18)],
)
def test_full_size_parameters(name: str, channels: int, depth: int) -> None:
    with torch.device("meta"):
        network = HybridDetr(h_detr_config(name))
    state = network.state_dict()
    rows = h_detr_table(network)
    # The transformer's share, counted from the paper: width 256, hidden 2048, 4 levels, 8 heads, 4 points.
    d, ffn, samples = 256, 2048, 8 * 4 * 4
    deformable = (d + 1) * samples * 3 + 2 * (d + 1) * d
    encoder = 6 * (deformable + (d + 1) * ffn + (ffn + 1) * d + 2 * 2 * d)
    decoder = 6 * (deformable + 4 * (d + 1) * d + (d + 1) * ffn + (ffn + 1) * d + 3 * 2 * d)
    extra = 4 * d + (d + 1) * d + 2 * d + (2 * d + 1) * 2 * d + 4 * d
    in_file = {row.name: state[key].numel() * row.parts for key, row in rows.items()}
    assert sum(n for key, n in in_file.items() if key.startswith("transformer.")) == encoder + decoder + extra
    heads = 7 * ((d + 1) * 91 + 2 * (d + 1) * d + (d + 1) * 4)
    assert (
        sum(n for key, n in in_file.items() if "_embed." in key and key[0] in "cb" and key[1] != "a") == heads
    )
    assert state["detr.model.input_proj.3.0.weight"].shape == (256, channels, 3, 3)
    last = "layer3.5.bn3.weight" if name == "h-detr-r50" else f"layers.2.blocks.{depth - 1}.mlp.fc2.bias"
    assert f"backbone.0.body.{last}" in in_file
    body = sum(n for key, n in in_file.items() if key.startswith("backbone.") and "running" not in key)
    # Published sizes of the classifiers, without their last layer (Swin: and last norm; three are added).
    if name == "h-detr-r50":
        assert body == 25_557_032 - 2_049_000
    else:
        whole, width = (28_288_354, 96) if name == "h-detr-swin-t" else (196_532_476, 192)
        classifier = (8 * width + 1) * 1000
        assert body == whole - classifier - 2 * 8 * width + 2 * (2 + 4 + 8) * width


def test_another_variants_file_is_refused(weights: Path, backbone: str) -> None:
    other = small_config("swin" if backbone == "resnet" else "resnet")
    with pytest.raises(CheckpointError, match=r"not the weights of h-detr-swin-t: \d+ tensors are missing"):
        load_h_detr("h-detr-swin-t", weights, config=other)


def test_from_the_command_line(
    saqsam: Callable[..., tuple[int, str, str]],
    weights: Path,
    backbone: str,
    scenes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The command line knows the real detectors alone, which take minutes on a CPU.
    monkeypatch.setattr(h_detr, "h_detr_config", lambda name: small_config(backbone))
    monkeypatch.setattr(HybridDetrDetector.__init__, "__defaults__", ((96, 96),))
    out = tmp_path / "d.json"
    words = ("--detector", "h-detr-r50", "--weights", weights, "--limit", 2, "--out", out, "--json")
    code, text, err = saqsam("detect", scenes / "images", *words)
    assert (code, err) == (0, "")
    assert json.loads(text)["boxes"] == len(read_results(out)) > 150
