"""The small text files of a saved directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from saqsam.files import atomic_write

# ImageNet statistics of RGB in 0..1, as SAM was trained with.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


def processor_settings(side: int) -> dict[str, Any]:
    """What ``SamProcessor.from_pretrained`` reads, for square inputs of ``side`` pixels.

    Written out here because ``SamImageProcessor`` itself cannot be had without torchvision; loading falls
    back to the Pillow one.
    """
    low = side // 4
    images = {
        "image_processor_type": "SamImageProcessor",
        **dict.fromkeys(("do_convert_rgb", "do_normalize", "do_pad", "do_rescale", "do_resize"), True),
        "image_mean": list(_MEAN),
        "image_std": list(_STD),
        "rescale_factor": 1 / 255,
        "resample": 2,  # bilinear
        "size": {"longest_edge": side},
        "pad_size": {"height": side, "width": side},
        "mask_size": {"longest_edge": low},
        "mask_pad_size": {"height": low, "width": low},
    }
    return {"image_processor": images, "processor_class": "SamProcessor"}


def architecture_of(model: object) -> str:
    """The class of ``transformers`` that opens a model: its own one, or the one it is derived from."""
    kinds = (kind for kind in type(model).__mro__ if kind.__module__.partition(".")[0] == "transformers")
    return next(kinds).__name__


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Sorted and indented, atomically."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def write_text(path: Path, text: str) -> None:
    """UTF-8, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
