"""saqsam: the Segment Anything Model in 8, 6 and 4 bits, packed, audited and still segmenting.

Names are imported on first use, so that ``import saqsam`` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from saqsam.drop_in.hook import make_known

if TYPE_CHECKING:
    from saqsam.api import evaluate, load, quantize
    from saqsam.recipe import Recipe, list_recipes, load_recipe
    from saqsam.sam import Sam
    from saqsam.segment.result import Segmentation
    from saqsam.tasks.instance import InstanceResult

__version__ = "0.1.0"

__all__ = [
    "InstanceResult",
    "Recipe",
    "Sam",
    "Segmentation",
    "__version__",
    "evaluate",
    "list_recipes",
    "load",
    "load_recipe",
    "quantize",
]

_HOMES = {
    "InstanceResult": "saqsam.tasks.instance",
    "Recipe": "saqsam.recipe",
    "Sam": "saqsam.sam",
    "Segmentation": "saqsam.segment.result",
    "evaluate": "saqsam.api",
    "list_recipes": "saqsam.recipe",
    "load": "saqsam.api",
    "load_recipe": "saqsam.recipe",
    "quantize": "saqsam.api",
}


make_known()  # ``SamModel.from_pretrained`` then loads what ``Sam.save_pretrained`` wrote


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'saqsam' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
