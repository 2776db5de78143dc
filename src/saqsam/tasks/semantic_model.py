"""``hf:<directory or hub id>``: any semantic segmenter that ``transformers`` opens by itself.

Mind the licences of weights: NVIDIA's SegFormer weights, for one, are for non-commercial use.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError

from saqsam.checkpoints.hub import fetch
from saqsam.errors import CheckpointError
from saqsam.files import expanded
from saqsam.images.files import Pixels
from saqsam.tasks.semantic_maps import LabelMap

PREFIX = "hf:"
_FAILURES = (ValueError, TypeError, RuntimeError, AttributeError, LookupError, OSError, SafetensorError)
_HELP = (
    "Give a directory or hub id for AutoModelForSemanticSegmentation with config.json, "
    "preprocessor_config.json and safetensors weights, or a folder of label maps"
)


class SemanticModel:
    """A semantic segmenter with its own image processor.

    Args:
        model: from ``AutoModelForSemanticSegmentation``.
        processor: from ``AutoImageProcessor``.
        first_label: class number of the model's first class: 1 where label 0 is kept for "none".
    """

    def __init__(self, model: Any, processor: Any, first_label: int) -> None:
        self.model, self.processor, self.first_label = model, processor, first_label

    @torch.no_grad()
    def label_map(self, pixels: Pixels) -> LabelMap:
        """The likeliest class of every pixel, logits enlarged to the image bilinearly."""
        inputs = self.processor(images=[pixels], return_tensors="pt")
        logits = self.model(pixel_values=inputs["pixel_values"].to(self.model.device)).logits
        large = F.interpolate(logits.float(), pixels.shape[:2], mode="bilinear", align_corners=False)
        labels: LabelMap = large[0].argmax(0).cpu().numpy().astype(np.int64) + self.first_label
        return labels


def load_semantic(source: str, device: str = "cpu") -> SemanticModel:
    """Open ``hf:<directory or hub id>``; only safetensors weights, and no Python code kept with the model.

    Where the model's processor says ``do_reduce_labels``, it was trained without label 0, and its first
    class is 1 in label maps; otherwise 0.

    Raises:
        CheckpointError: no such model, no segmenter, weights missing from it or damaged.
    """
    from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

    name = source.removeprefix(PREFIX)
    path = expanded(name)
    directory = path if path.is_dir() else fetch(name)
    try:
        model, report = AutoModelForSemanticSegmentation.from_pretrained(
            directory,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            dtype=torch.float32,
        )
        processor = AutoImageProcessor.from_pretrained(directory, local_files_only=True)
    except _FAILURES as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            directory, f"no semantic segmenter could be opened ({reason})", _HELP
        ) from error
    if report["missing_keys"]:
        count = len(report["missing_keys"])
        raise CheckpointError(directory, f"{count} tensors of the model are missing from it", _HELP)
    first_label = int(bool(getattr(processor, "do_reduce_labels", False)))
    return SemanticModel(model.to(device).eval().requires_grad_(False), processor, first_label)
