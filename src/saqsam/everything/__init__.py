"""Masks for everything on an image, from a grid of clicks (Kirillov et al. 2023, appendix B)."""

from saqsam.everything.generate import segment_everything
from saqsam.everything.options import EverythingOptions
from saqsam.everything.result import Everything, EverythingMask

__all__ = ["Everything", "EverythingMask", "EverythingOptions", "segment_everything"]
