"""What every detector offers."""

from __future__ import annotations

from typing import Protocol

from saqsam.detectors.detections import Detections
from saqsam.images.files import Pixels


class Detector(Protocol):
    """Finds boxes on one image at a time, as the detector's own published evaluation does.

    Attributes:
        name: for messages and records.
        class_names: what the labels of its :class:`Detections` mean.
    """

    @property
    def name(self) -> str: ...

    @property
    def class_names(self) -> tuple[str, ...]: ...

    def detect(self, pixels: Pixels) -> Detections:
        """Boxes on an ``(H, W, 3)`` uint8 RGB image, in its pixels, on the CPU, best first."""
        ...
