"""DINO with FocalNet against a second implementation that reads the published names and shares no code."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.detectors.conftest import awake
from tests.detectors.plain_backbones import focalnet
from tests.detectors.plain_detr import PlainDino
from tests.detectors.published import published, write_published
from torch import Tensor
from transformers import DeformableDetrConfig, FocalNetConfig, ResNetConfig
from transformers.models.deformable_detr.modeling_deformable_detr import (
    DeformableDetrMultiscaleDeformableAttention,
)

from saqsam.detectors.dino import DinoDetector, dino_configs, dino_table, load_dino
from saqsam.detectors.dino_network import Dino
from saqsam.errors import CheckpointError

QUERIES = 20
HEADS = ("class_embed.", "bbox_embed.")


def small_configs() -> tuple[Any, Any]:
    transformer = DeformableDetrConfig(
        backbone_config=ResNetConfig(),
        use_timm_backbone=False,
        num_queries=QUERIES,
        num_feature_levels=5,
        d_model=64,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        num_labels=91,
        dropout=0.0,
    )
    backbone = FocalNetConfig(
        embed_dim=8,
        depths=[1, 1, 2, 1],
        focal_levels=[2] * 4,
        focal_windows=[3] * 4,
        use_conv_embed=True,
        use_post_layernorm=True,
        use_layerscale=True,
        normalize_modulator=True,
    )
    return transformer, backbone


@pytest.fixture(scope="module")
def network() -> Dino:
    return awake(Dino(*small_configs()), seed=6)


@pytest.fixture(scope="module")
def tensors(network: Dino) -> dict[str, Tensor]:
    """As published: the shared heads once for each layer, inside and outside of the decoder."""
    found = published(network, dino_table(network))
    for name in [name for name in found if name.startswith(HEADS)]:
        head, _, rest = name.split(".", 2)
        for i in range(3):
            found[f"{head}.{i}.{rest}"] = found[f"transformer.decoder.{head}.{i}.{rest}"] = found[name]
    return {**found, "label_enc.weight": torch.zeros(92, 64)}


@pytest.fixture
def weights(tensors: dict[str, Tensor], tmp_path: Path) -> Path:
    return write_published(tensors, tmp_path / "dino.pth")


@pytest.mark.parametrize("size", [(75, 109), (64, 96)])
def test_logits_and_boxes_agree_with_the_second_implementation(
    size: tuple[int, int], tensors: dict[str, Tensor], weights: Path
) -> None:
    detector = load_dino(weights, configs=small_configs())
    image = torch.randn(3, *size, generator=torch.Generator().manual_seed(1))
    plain = PlainDino(tensors, heads=4)
    maps = focalnet(plain, image, "backbone.0.", [1, 1, 2, 1], 2, 3)
    ours = detector.network.backbone(image[None])
    assert len(ours) == 4
    for one, wanted in zip(ours, maps, strict=True):
        assert (one[0] - wanted).abs().max() < 1e-5
    wanted_logits, wanted_boxes = plain.answer(maps, 5)
    with torch.no_grad():
        logits, boxes = detector.network(image[None])
    assert logits.std() > 0.1  # alive
    assert (logits - wanted_logits).abs().max() < 2e-5
    assert (boxes - wanted_boxes).abs().max() < 2e-5
    unread = {name for name in tensors if name not in plain.used}
    assert all(name.startswith((*HEADS, "transformer.decoder.", "label_enc.")) for name in unread)
    assert all("_embed." in name for name in unread - {"label_enc.weight"})


def test_every_tensor_of_the_file_arrives(network: Dino, weights: Path) -> None:
    found, wanted = load_dino(weights, configs=small_configs()).network.state_dict(), network.state_dict()
    assert set(found) == set(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_the_same_image_gives_the_same_boxes(network: Dino) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    detector = DinoDetector(network, top_k=40, limits=(90, 90))
    first, second = detector.detect(pixels), detector.detect(pixels)
    assert len(first) == 40
    assert torch.equal(first.boxes, second.boxes)
    assert torch.equal(first.labels, second.labels)
    assert bool((first.scores[:-1] >= first.scores[1:]).all())


def test_full_size_parameters() -> None:
    with torch.device("meta"):
        network = Dino(*dino_configs())
    count = {name: tensor.numel() for name, tensor in network.state_dict().items()}
    d, ffn, samples = 256, 2048, 8 * 5 * 4
    deformable = (d + 1) * samples * 3 + 2 * (d + 1) * d
    encoder = 6 * (deformable + (d + 1) * ffn + (ffn + 1) * d + 2 * 2 * d)
    decoder = 6 * (deformable + 4 * (d + 1) * d + (d + 1) * ffn + (ffn + 1) * d + 3 * 2 * d)
    assert sum(n for name, n in count.items() if name.startswith("encoder.")) == encoder
    assert sum(n for name, n in count.items() if name.startswith("layers.")) == decoder
    blocks = 0
    for width, depth in zip((192, 384, 768, 1536), (2, 2, 18, 2), strict=True):
        modulation = (
            (width + 1) * (2 * width + 5)
            + 2 * (width + 1) * width
            + width * sum(kernel**2 for kernel in (3, 5, 7, 9))
        )
        blocks += depth * (modulation + (width + 1) * 4 * width + (4 * width + 1) * width + 6 * width)
    found = sum(
        n for name, n in count.items() if name.startswith("backbone.stages.") and "downsample" not in name
    )
    assert found == blocks
    assert network.tgt_embed.weight.shape == (900, 256)
    rows = dino_table(network)
    assert rows["backbone.stages.2.layers.17.modulation.projection_in.weight"].name == (
        "backbone.0.layers.2.blocks.17.modulation.f.weight"
    )
    assert rows["ref_point_head.layers.0.weight"].name == "transformer.decoder.ref_point_head.layers.0.weight"
    assert network.ref_point_head.layers[0].weight.shape == (256, 512)


def test_a_file_without_one_tensor_is_refused(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    cut = {name: value for name, value in tensors.items() if name != "transformer.decoder.norm.weight"}
    path = write_published(cut, tmp_path / "cut.pth")
    with pytest.raises(
        CheckpointError, match=r"1 tensors are missing \(transformer\.decoder\.norm\.weight\)"
    ):
        load_dino(path, configs=small_configs())


@pytest.mark.parametrize("coordinates", [2, 4])
def test_deformable_sampling_is_its_definition(coordinates: int) -> None:
    """The library's layer, which both detectors build on, against one sum for each query and head."""
    config = DeformableDetrConfig(
        backbone_config=ResNetConfig(), use_timm_backbone=False, d_model=8, num_feature_levels=2
    )
    layer = awake(DeformableDetrMultiscaleDeformableAttention(config, num_heads=2, n_points=3), seed=1)
    sizes = [(4, 5), (2, 3)]
    generator = torch.Generator().manual_seed(2)
    query, memory = torch.randn(1, 3, 8, generator=generator), torch.randn(1, 26, 8, generator=generator)
    points = torch.rand(1, 3, 2, coordinates, generator=generator)
    layer.sampling_offsets.bias.data *= 30  # far enough to leave the maps
    with torch.no_grad():
        found, _ = layer(
            query,
            encoder_hidden_states=memory,
            reference_points=points,
            spatial_shapes=torch.tensor(sizes),
            spatial_shapes_list=sizes,
        )
        value = layer.value_proj(memory)[0].view(26, 2, 4)
        offsets = layer.sampling_offsets(query).view(3, 2, 2, 3, 2)
        weights = layer.attention_weights(query).view(3, 2, 6).softmax(-1).view(3, 2, 2, 3)
        wanted = torch.zeros(3, 2, 4, dtype=torch.float64)
        for q, head, level, point in itertools.product(range(3), range(2), range(2), range(3)):
            height, width = sizes[level]
            start = 0 if level == 0 else 20
            x, y = points[0, q, level, :2].tolist()
            dx, dy = offsets[q, head, level, point].tolist()
            if coordinates == 2:
                x, y = x * width + dx, y * height + dy
            else:
                w, h = points[0, q, level, 2:].tolist()
                x, y = (x + dx / 3 * w * 0.5) * width, (y + dy / 3 * h * 0.5) * height
            for row in range(height):
                for column in range(width):
                    near = max(0, 1 - abs(y - row - 0.5)) * max(0, 1 - abs(x - column - 0.5))
                    cell = value[start + row * width + column, head].double()
                    wanted[q, head] += near * weights[q, head, level, point] * cell
        result = layer.output_proj(wanted.float().flatten(1))
    assert (found[0] - result).abs().max() < 1e-6
