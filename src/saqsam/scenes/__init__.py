"""Generated scenes: eight kinds of textured, shaded, overlapping objects with exact ground truth."""

from saqsam.scenes.compose import Scene, make_scene
from saqsam.scenes.shapes import CATEGORIES
from saqsam.scenes.write import rotated_box, write_scenes

__all__ = ["CATEGORIES", "Scene", "make_scene", "rotated_box", "write_scenes"]
