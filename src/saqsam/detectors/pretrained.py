"""``hf:<directory or hub id>``: any detector that ``transformers`` opens by itself.

Answers are read from the raw logits with one rule for all: where there is one logit more than there are
classes, the last means "no object" and a softmax decides (DETR, YOLOS); otherwise every class is a question
of its own (Deformable DETR, RT-DETR, D-FINE and their kin). Boxes are centre, width and height relative to
the image, in every model that the library opens this way.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from saqsam.checkpoints.hub import fetch
from saqsam.datasets.boxes import centre_to_corners
from saqsam.detectors.coco_names import COCO_CATEGORIES, COCO_LOGITS, COCO_NAMES
from saqsam.detectors.detections import Detections, top_query_classes
from saqsam.errors import CheckpointError, UsageError
from saqsam.files import expanded
from saqsam.images.files import Pixels

PREFIX = "hf:"
TOP_K = 100
_COPY = "Copy the whole directory again"
_FAILURES = (
    ValueError,
    TypeError,
    RuntimeError,
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    SafetensorError,
)


class PretrainedDetector:
    """A detector of ``transformers`` with its own image processor.

    Args:
        model: from ``AutoModelForObjectDetection``.
        processor: from ``AutoImageProcessor``; resizes and normalises as the model was trained.
        name: for messages.
        top_k: boxes kept of each image.
    """

    def __init__(self, model: Any, processor: Any, name: str, top_k: int = TOP_K) -> None:
        self.model, self.processor, self.name, self.top_k = model, processor, name, top_k
        self.class_names = _class_names(model.config.id2label)

    @torch.no_grad()
    def detect(self, pixels: Pixels) -> Detections:
        """The best ``top_k`` pairs of query and class; see :class:`~saqsam.detectors.detector.Detector`."""
        height, width = pixels.shape[:2]
        inputs = self.processor(images=[pixels], return_tensors="pt")
        output = self.model(**{name: value.to(self.model.device) for name, value in inputs.items()})
        scores = class_scores(output.logits[0], len(self.class_names))
        boxes = centre_to_corners(output.pred_boxes[0]) * scores.new_tensor([width, height, width, height])
        # Processors that pad to a common size return a mask; a single image is never padded.
        return top_query_classes(scores, boxes, self.top_k).cpu()


def class_scores(logits: Tensor, classes: int) -> Tensor:
    """``(Q, C)`` or ``(Q, C + 1)`` logits to ``(Q, C)`` scores by the rule above."""
    if logits.shape[-1] == classes + 1:
        return logits.softmax(-1)[:, :classes]
    return logits.sigmoid()


def load_pretrained(source: str, device: str = "cpu") -> PretrainedDetector:
    """Open ``hf:<directory or hub id>``; only safetensors weights, and no Python code kept with the model.

    Raises:
        CheckpointError: no such model, no detector, weights missing from it or damaged.
        UsageError: the model needs a package that saqsam does not require (timm, torchvision).
    """
    name = source.removeprefix(PREFIX)
    path = expanded(name)
    directory = path if path.is_dir() else fetch(name)
    _check_directory(directory)
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForObjectDetection

    try:
        with _quiet():
            config = AutoConfig.from_pretrained(directory, local_files_only=True)
            model, report = AutoModelForObjectDetection.from_pretrained(
                directory,
                config=config,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                dtype=torch.float32,
            )
            processor = AutoImageProcessor.from_pretrained(directory, local_files_only=True)
    except (ImportError, *_FAILURES) as error:
        package = _missing_package(error)
        if package is not None:
            raise UsageError(
                f"--detector {source}: this model needs the package {package}, which saqsam does not "
                f"install; pip install {package}, or use a model without it (D-FINE, RT-DETRv2)"
            ) from error
        raise CheckpointError(
            directory, f"no detector could be opened ({_on_one_line(error)})", _HELP
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise CheckpointError(
            directory, f"{len(missing)} tensors of the model are missing from it ({missing[0]}, ...)", _COPY
        )
    model = model.to(device).eval().requires_grad_(False)
    return PretrainedDetector(model, processor, source)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's bars and remarks: all that matters of them becomes an error here."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


_HELP = "Give a directory or hub id of a model for AutoModelForObjectDetection, with safetensors weights"
_NEEDED = ("config.json", "preprocessor_config.json")


def _check_directory(directory: Path) -> None:
    for name in _NEEDED:
        if not (directory / name).is_file():
            raise CheckpointError(directory, f"no {name} in it", _COPY)
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(directory / "config.json", f"not readable as JSON ({error})", _COPY) from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise CheckpointError(directory / "config.json", "does not name a 'model_type'", _COPY)
    if "auto_map" in config:
        raise CheckpointError(
            directory / "config.json",
            "asks to run Python code that is kept with the model ('auto_map')",
            "Use a model whose code is part of transformers",
        )


def _missing_package(error: Exception) -> str | None:
    """The package for want of which the library gave up; it raises ValueError as often as ImportError."""
    text = str(error)
    if not isinstance(error, ImportError) and "Missing optional dependencies" not in text:
        return None
    return next((name for name in ("timm", "torchvision", "scipy") if name in text), None)


def _class_names(id2label: Mapping[int, str]) -> tuple[str, ...]:
    """Names by label. Files without real names say ``LABEL_0``...: COCO's two ways of counting are known."""
    names = tuple(str(id2label[index]) for index in sorted(id2label))
    if names and all(name == f"LABEL_{index}" for index, name in enumerate(names)):
        if len(names) == len(COCO_NAMES):
            return COCO_NAMES
        if len(names) in (COCO_LOGITS - 1, COCO_LOGITS):
            return tuple(COCO_CATEGORIES.get(index, "N/A") for index in range(len(names)))
    return names


def _on_one_line(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:300]
