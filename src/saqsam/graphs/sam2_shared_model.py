"""SAM 2's sessions for many prompts of one image."""

from __future__ import annotations

from saqsam.graphs.decoder_model import SharedOnnxSam
from saqsam.graphs.sam2_model import OnnxSam2


class SharedOnnxSam2(SharedOnnxSam, OnnxSam2):
    """As of ``SharedOnnxSam``: what the image alone decides, its finer levels too, is computed once."""
