"""DINO with FocalNet-L on five levels, from the file that FocalNet's authors published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from saqsam.detectors.backbone_names import focalnet_row
from saqsam.detectors.coco_names import COCO_LOGITS, COCO_NAMES
from saqsam.detectors.deformable_names import decoder_row, encoder_row
from saqsam.detectors.detections import Detections
from saqsam.detectors.dino_network import Dino
from saqsam.detectors.set_prediction import LIMITS, network_input, read_predictions
from saqsam.detectors.weights import Row, fill
from saqsam.images.files import Pixels

QUERIES, LEVELS, TOP_K = 900, 5, 300
_HEADS = ("class_embed.", "bbox_embed.")
_IN_DECODER = ("norm.", "ref_point_head.")


def dino_configs() -> tuple[Any, Any]:
    """The published configurations of transformer and backbone."""
    import transformers

    library: Any = transformers
    transformer = library.DeformableDetrConfig(
        backbone_config=library.ResNetConfig(),  # never built; without one a timm model would be asked for
        use_timm_backbone=False,
        num_queries=QUERIES,
        num_feature_levels=LEVELS,
        encoder_ffn_dim=2048,
        decoder_ffn_dim=2048,
        num_labels=COCO_LOGITS,
        dropout=0.0,
    )
    backbone = library.FocalNetConfig(
        embed_dim=192,
        depths=[2, 2, 18, 2],
        focal_levels=[4, 4, 4, 4],
        focal_windows=[3, 3, 3, 3],
        use_conv_embed=True,
        use_post_layernorm=True,
        use_layerscale=True,
        normalize_modulator=True,
    )
    return transformer, backbone


class DinoDetector:
    """A :class:`~saqsam.detectors.detector.Detector` around a DINO."""

    name = "dino-focal-l"
    class_names = COCO_NAMES

    def __init__(self, network: Dino, top_k: int = TOP_K, limits: tuple[int, int] = LIMITS) -> None:
        self.network, self.top_k, self.limits = network, top_k, limits

    @torch.no_grad()
    def detect(self, pixels: Pixels) -> Detections:
        """The best pairs of query and category, by falling score."""
        image = network_input(pixels, self.limits, self.network.level_embed.device)
        logits, boxes = self.network(image)
        return read_predictions(logits, boxes, pixels, self.top_k)


def load_dino(path: Path, device: str = "cpu", configs: tuple[Any, Any] | None = None) -> DinoDetector:
    """DINO from ``focalnet_large_fl4_o365_finetuned_on_coco.pth``, or the tensors of its ``"model"`` alone.

    Raises:
        CheckpointError: another model's weights, or damaged ones.
    """
    network = Dino(*(configs or dino_configs()))
    fill(network, path, dino_table(network), is_for_training, "DINO with FocalNet-L", device)
    return DinoDetector(network.to(device))


def is_for_training(name: str) -> bool:
    """Whether a tensor of the published file repeats another, or serves denoising training only."""
    in_decoder = name.removeprefix("transformer.decoder.")
    # One head is shared by all layers, and saved once for each.
    return name.startswith("label_enc.") or in_decoder.startswith(_HEADS)


def dino_table(network: Dino) -> dict[str, Row]:
    """Where each tensor of the network lies in the published file."""
    return {name: _row(name) for name in network.state_dict()}


def _row(name: str) -> Row:
    if name.startswith("backbone."):
        return focalnet_row(name.removeprefix("backbone."), "backbone.0.")
    if name.startswith("encoder."):
        return encoder_row(name.removeprefix("encoder."))
    if name.startswith("layers."):
        return decoder_row(name)
    if name.startswith(_HEADS):
        head, rest = name.split(".", 1)
        return Row(f"{head}.0.{rest}")
    if name.startswith("input_proj."):
        return Row(name)
    return Row(f"transformer.decoder.{name}" if name.startswith(_IN_DECODER) else f"transformer.{name}")
