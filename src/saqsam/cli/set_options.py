"""The options of verbs that evaluate on a COCO-format set: which images, and what is asked on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from saqsam.cli.arguments import (
    AnnotationsOption,
    ExifOption,
    ImagesOption,
    LimitOption,
    MaxPixelsOption,
    OnErrorOption,
    PromptsOption,
    ScoreThresholdOption,
    TopKOption,
)
from saqsam.datasets.exif_words import AUTO


@dataclass(frozen=True)
class SetOptions:
    """Which images, with which annotations."""

    TITLE: ClassVar[str] = "Images"

    images: ImagesOption
    annotations: AnnotationsOption
    exif: ExifOption = AUTO
    limit: LimitOption = None
    on_error: OnErrorOption = "stop"
    max_pixels: MaxPixelsOption = None


@dataclass(frozen=True)
class PromptOptions:
    """What is asked on them."""

    TITLE: ClassVar[str] = "Prompts"

    prompts: PromptsOption = "boxes"
    top_k: TopKOption = None
    score_threshold: ScoreThresholdOption = None
