"""What is to be done: a list of images with their prompts, in a fixed order, and the identity of a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from saqsam.datasets.instances import Instance
from saqsam.datasets.listing import ListedImage
from saqsam.jobs.identity import model_hash
from saqsam.prompts.from_dataset import ImagePrompts
from saqsam.sam import Sam

Row = dict[str, Any]
"""What became of one image, in plain JSON types: ``image_id``, ``file``, ``unreadable`` (the reason, or None
for a good image) and what the job found."""


@dataclass(frozen=True)
class Item:
    """One image to work on.

    Attributes:
        image: the file, its id, and its entry in the annotation file where there is one.
        asked: its prompts; None where nothing is asked.
        objects: what is annotated on it; empty where nothing is measured.
    """

    image: ListedImage
    asked: ImagePrompts | None
    objects: tuple[Instance, ...] = ()


class Job(Protocol):
    """Work on images one by one; the object itself is small and travels to the workers."""

    def start(self) -> Callable[[Item], Row]:
        """Load the models, once for each worker, and return the function from an image to its row."""
        ...


@dataclass(frozen=True)
class Chunk:
    """Consecutive items that end in one shard, and the shard's file name without its suffix."""

    name: str
    items: tuple[Item, ...]

    @property
    def ids(self) -> list[int]:
        """Image ids in order."""
        return [item.image.id for item in self.items]


def chunks(items: Sequence[Item], size: int) -> Iterator[Chunk]:
    """The work cut into chunks of ``size`` images, the last one shorter; named by their place and ids."""
    for place, start in enumerate(range(0, len(items), size)):
        part = tuple(items[start : start + size])
        ids = hashlib.sha256(json.dumps([item.image.id for item in part]).encode()).hexdigest()
        yield Chunk(f"{place:06}-{ids[:8]}", part)


def identity_of(task: str, sam: Sam, items: Iterable[Item], reference: Sam | None = None) -> dict[str, Any]:
    """Everything that decides the rows, in plain JSON types: two runs that differ in it never mix.

    Image files count by name and size in bytes; reading all of them would take as long as a small run.
    """
    files, prompts = hashlib.sha256(), hashlib.sha256()
    for item in items:
        size = f"{_size(item.image.path)}{_frame(item.image)}"
        files.update(f"{item.image.id} {item.image.path.name} {size}\n".encode())
        prompts.update(f"{item.image.id} {_prompts_text(item.asked)}\n".encode())
    return {
        "task": task,
        "recipe": sam.recipe,
        "model": _weights(sam),
        "reference": None if reference is None else _weights(reference),
        "images": files.hexdigest(),
        "prompts": prompts.hexdigest(),
        **({"engine": sam.engine} if sam.engine != "torch" else {}),
        **({"boxes": "zoom"} if sam.zoom else {}),
        **({"masks": "clipped to boxes"} if sam.clip_to_box else {}),
    }


def digest(identity: Mapping[str, Any]) -> str:
    """sha256 (hex) of an identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _weights(sam: Sam) -> str:
    if isinstance(sam.model, nn.Module) and any(True for _ in sam.model.parameters()):
        return model_hash(sam.model)
    if sam.file is not None:  # an engine without torch weights: the file it was made from
        return hashlib.sha256(Path(sam.file).read_bytes()).hexdigest()
    return sam.name


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1  # named as unreadable when its turn comes


def _frame(image: ListedImage) -> str:
    """The frame in which the image is seen, where that had to be decided."""
    if image.record is None:
        return "" if image.apply_exif else " as stored"
    words = {None: "", False: " as stored", True: " as displayed"}
    return words[image.record.apply_exif]


def _prompts_text(asked: ImagePrompts | None) -> str:
    if asked is None:
        return "nothing"
    given = asked.prompts
    tensors = [None if one is None else one.tolist() for one in (given.boxes, given.points, given.labels)]
    return json.dumps([tensors, asked.category_ids, asked.scores, [one.id for one in asked.instances]])
