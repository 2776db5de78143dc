"""H-Deformable-DETR (Jia et al., "DETRs with Hybrid Matching", 2023) with ResNet-50, Swin-T or Swin-L.

At inference it is a two-stage Deformable DETR with box refinement, which ``transformers`` has, but for one
thing: the decoder's content queries are learned, not made from the proposals ("mixed query selection"). The
queries of the one-to-many branch, which is where the name comes from, only serve training.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saqsam.detectors.backbone_names import resnet_row, swin_row
from saqsam.detectors.coco_names import COCO_LOGITS, COCO_NAMES
from saqsam.detectors.deformable_names import decoder_row, encoder_row
from saqsam.detectors.detections import Detections
from saqsam.detectors.set_prediction import LIMITS, network_input, read_predictions
from saqsam.detectors.weights import Row, fill
from saqsam.images.files import Pixels

_BODY = "backbone.0.body."
_STAGES = ["stage2", "stage3", "stage4"]
VARIANTS: Mapping[str, tuple[int, int]] = {
    "h-detr-r50": (300, 100),
    "h-detr-swin-t": (300, 100),
    "h-detr-swin-l": (900, 300),
}
"""Name -> queries, and boxes kept of each image."""


def h_detr_config(name: str) -> Any:
    """The published configuration of a variant, as ``transformers`` writes it."""
    import transformers

    library: Any = transformers
    queries = VARIANTS[name][0]
    return library.DeformableDetrConfig(
        backbone_config=_backbone_config(name),
        use_timm_backbone=False,
        two_stage=True,
        with_box_refine=True,
        num_queries=queries,
        two_stage_num_proposals=queries,
        encoder_ffn_dim=2048,
        decoder_ffn_dim=2048,
        num_labels=COCO_LOGITS,
        dropout=0.0,
    )


def _backbone_config(name: str) -> Any:
    import transformers

    library: Any = transformers
    if name == "h-detr-r50":
        return library.ResNetConfig(out_features=_STAGES)
    large = name == "h-detr-swin-l"
    return library.SwinConfig(
        embed_dim=192 if large else 96,
        depths=[2, 2, 18 if large else 6, 2],
        num_heads=[6, 12, 24, 48] if large else [3, 6, 12, 24],
        window_size=7,
        out_features=_STAGES,
    )


class HybridDetr(nn.Module):
    """The network: ``(1, 3, h, w)`` normalised RGB to ``(Q, 91)`` logits and ``(Q, 4)`` relative boxes.

    Attributes:
        detr: ``DeformableDetrForObjectDetection``.
        query_embed: learned content of the Q queries.
    """

    def __init__(self, config: Any) -> None:
        from transformers import DeformableDetrForObjectDetection

        super().__init__()
        self.detr = DeformableDetrForObjectDetection(config)
        self.query_embed = nn.Embedding(config.two_stage_num_proposals, config.d_model)
        self.detr.model.decoder.register_forward_pre_hook(self._learned_content, with_kwargs=True)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        output = self.detr(pixel_values=image)
        return output.logits[0], output.pred_boxes[0]

    def _learned_content(
        self, decoder: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Mixed query selection: content that was learned, positions that were proposed."""
        content = self.query_embed.weight.expand(len(named["inputs_embeds"]), -1, -1)
        return arguments, {**named, "inputs_embeds": content}


class HybridDetrDetector:
    """A :class:`~saqsam.detectors.detector.Detector` around an H-Deformable-DETR."""

    def __init__(self, network: HybridDetr, name: str, top_k: int, limits: tuple[int, int] = LIMITS) -> None:
        self.network, self.name, self.top_k, self.limits = network, name, top_k, limits
        self.class_names = COCO_NAMES

    @torch.no_grad()
    def detect(self, pixels: Pixels) -> Detections:
        """The best pairs of query and category, by falling score."""
        image = network_input(pixels, self.limits, self.network.query_embed.weight.device)
        logits, boxes = self.network(image)
        return read_predictions(logits, boxes, pixels, self.top_k)


def load_h_detr(name: str, path: Path, device: str = "cpu", config: Any = None) -> HybridDetrDetector:
    """A variant from its published ``.pth``, ``{"model": ..., "args": ...}`` or the tensors alone.

    Raises:
        CheckpointError: another model's weights, or damaged ones.
    """
    network = HybridDetr(config or h_detr_config(name))
    fill(network, path, h_detr_table(network), is_for_training, name, device)
    return HybridDetrDetector(network.to(device), name, VARIANTS[name][1])


def is_for_training(name: str) -> bool:
    """Whether a tensor of a published file is a repetition, or of no use at inference."""
    repeated = ("transformer.decoder.class_embed.", "transformer.decoder.bbox_embed.")
    return name.startswith((*repeated, "label_enc.")) or name.endswith("relative_position_index")


def h_detr_table(network: HybridDetr) -> dict[str, Row]:
    """Where each tensor of the network lies in a published file."""
    rows = {name: _row(name, len(network.query_embed.weight)) for name in network.state_dict()}
    return {name: row for name, row in rows.items() if row is not None}


def _row(name: str, queries: int) -> Row | None:
    if name == "query_embed.weight":
        return Row(name, first=queries)  # the rest belongs to the one-to-many branch
    name = name.removeprefix("detr.")
    if name.startswith(("class_embed.", "bbox_embed.")):
        return Row(name)
    name = name.removeprefix("model.")
    if name.startswith(("decoder.class_embed.", "decoder.bbox_embed.")):
        return Row(name.removeprefix("decoder."))
    if name.startswith("encoder."):
        return encoder_row(name.removeprefix("encoder."))
    if name.startswith("decoder."):
        return decoder_row(name.removeprefix("decoder."))
    if name.startswith("input_proj."):
        return Row(name)
    if name.startswith("backbone.model."):
        inner = name.removeprefix("backbone.model.")
        is_swin = inner.startswith(("swin.", "hidden_states_norms."))
        return swin_row(inner, _BODY) if is_swin else resnet_row(inner, _BODY)
    return Row(f"transformer.{name}")
