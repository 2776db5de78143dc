"""The small text files of a saved directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from saqsam.families.record import Model
from saqsam.families.registry import family_of, sizes_of
from saqsam.files import atomic_write


def processor_settings(model: Model) -> dict[str, Any]:
    """What the ``from_pretrained`` of the family's processor reads.

    Written out here because ``SamImageProcessor`` itself cannot be had without torchvision; loading falls
    back to the Pillow one.
    """
    family, sizes = family_of(model), sizes_of(model)
    name = family.processor
    how, low = sizes.preprocessing, sizes.low_res_side
    images: dict[str, Any] = {
        "image_processor_type": family.image_processor or name.replace("Processor", "ImageProcessor"),
        **dict.fromkeys(("do_convert_rgb", "do_normalize", "do_rescale", "do_resize"), True),
        "image_mean": list(how.mean),
        "image_std": list(how.std),
        "rescale_factor": 1 / 255,
        "resample": 2,  # bilinear
    }
    if how.pads:
        images |= {
            "do_pad": True,
            "size": {"longest_edge": how.side},
            "pad_size": {"height": how.side, "width": how.side},
            "mask_size": {"longest_edge": low},
            "mask_pad_size": {"height": low, "width": low},
        }
    else:
        images |= {
            "size": {"height": how.side, "width": how.side},
            "mask_size": {"height": low, "width": low},
        }
    return {"image_processor": images, "processor_class": name}


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
