"""What a run is: recipe, model and inputs. A directory continues the run it was begun for, and no other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from saqsam.calibrate.images import CalibrationImage
from saqsam.checkpoints.options import options_of
from saqsam.prompts.prompts import Prompts
from saqsam.recipe import Recipe

_SHOWN = 6
_ABSENT = "nothing"


def identity_of(model: nn.Module, recipe: Recipe, images: Sequence[CalibrationImage]) -> dict[str, Any]:
    """Everything that decides the result, in plain JSON types.

    Args:
        model: the float model.
        recipe: how it is quantized.
        images: calibration images with their prompts; files are read and hashed.
    """
    return {
        "recipe": recipe.to_dict(),
        "model": model_hash(model),
        "images": {
            f"{position:04d} {image.path.name}": {
                "file": hashlib.sha256(image.path.read_bytes()).hexdigest(),
                "prompts": _prompts_hash(image.prompts),
                **_frame(image),
            }
            for position, image in enumerate(images)
        },
    }


def model_hash(model: nn.Module) -> str:
    """sha256 (hex) of all parameters and buffers, names and shapes included, and of options of loading."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    for key, value in options_of(model).items():
        digest.update(f"{key}={value}\n".encode())
    return digest.hexdigest()


def _frame(image: CalibrationImage) -> dict[str, bool]:
    """In which frame a rotated image is seen; nothing for others."""
    decided = None if image.record is None else image.record.apply_exif
    return {} if decided is None else {"apply_exif": decided}


def _prompts_hash(prompts: Prompts) -> str:
    digest = hashlib.sha256()
    for name in ("boxes", "points", "labels", "masks"):
        tensor = getattr(prompts, name)
        if tensor is not None:
            digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The fields that differ, in words, at most six of them; empty if none do."""
    before, after = dict(_flat(old, "")), dict(_flat(new, ""))
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    lines = [
        f"{name} was {_short(before.get(name, _ABSENT))}, now {_short(after.get(name, _ABSENT))}"
        for name in names[:_SHOWN]
    ]
    more = [f"and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return "; ".join([*lines, *more])


def _flat(value: Mapping[str, Any], where: str) -> Iterator[tuple[str, Any]]:
    for key, entry in value.items():
        name = f"{where}.{key}" if where else key
        if isinstance(entry, Mapping):
            yield from _flat(entry, name)
        else:
            yield name, entry


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}..."
