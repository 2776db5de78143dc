"""Calibration images: opened once, encoded once, and never counted twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saqsam.datasets.bad_entries import BadEntries
from saqsam.datasets.instances import ImageRecord, can_be_read, open_listed
from saqsam.errors import ImageError, UsageError
from saqsam.families.embedding import Embedding
from saqsam.families.framing import preprocess
from saqsam.families.record import Model
from saqsam.families.registry import decoder_of
from saqsam.files import expanded
from saqsam.images.files import IMAGE_SUFFIXES, LoadedImage, open_image
from saqsam.images.folder import image_files, is_image_name
from saqsam.images.frame import Frame
from saqsam.prompts.prompts import Prompts
from saqsam.recipe import Calibration
from saqsam.segment.predictor import decode


@dataclass(frozen=True)
class CalibrationImage:
    """An image file with the prompts to calibrate on.

    Attributes:
        path: the file.
        prompts: in pixels of the displayed image, or of the annotated one where there is a record.
        record: the image's entry in its annotation file, if it has one.
    """

    path: Path
    prompts: Prompts
    record: ImageRecord | None = None


@dataclass(frozen=True)
class Encoded:
    """What the decoder needs of one calibration image.

    Attributes:
        name: file name, for messages and records.
        embedding: of the image, float32, from the float image encoder.
        prompts: the image's prompts, in displayed-image pixels.
        frame: where the image lies in the model's input.
    """

    name: str
    embedding: Embedding
    prompts: Prompts
    frame: Frame


def pixels_of(model: Model, image: CalibrationImage) -> tuple[Tensor, Frame]:
    """Model input ``(1, 3, S, S)`` of one calibration image, and its frame.

    Raises:
        ImageError: the file cannot be read; calibration stops, since ranges would silently differ.
    """
    return preprocess(model, opened(image).pixels)


def opened(image: CalibrationImage) -> LoadedImage:
    """The picture in the pixel frame of its prompts, and what was changed on the way from the file.

    Raises:
        ImageError: the file cannot be read.
    """
    return open_image(image.path) if image.record is None else open_listed(image.record)


_TOGETHER = 16
"""Prompts decoded at once in calibration: observers look at a fixed number of attention rows in each call."""


def decode_each(model: Model, encoded: Sequence[Encoded]) -> Tensor:
    """Decode every prompt of every image; logits ``(prompts in total, 1, 4g, 4g)``."""
    return torch.cat(
        [decode(model, one.embedding, one.prompts, one.frame, chunk=_TOGETHER)[0] for one in encoded]
    )


@dataclass(frozen=True)
class DecoderBatch:
    """Several images with equally many prompts each, decoded as one batch.

    Attributes:
        embeddings: of n images.
        arguments: ``input_boxes (n, p, 4)`` or ``input_points (n, p, k, 2)`` and ``input_labels
            (n, p, k)``, in the model's input frame.
        prompts: p.
    """

    embeddings: Embedding
    arguments: dict[str, Any]
    prompts: int

    def run(self, model: Model) -> Tensor:
        """Mask logits ``(n, p, 1, 4g, 4g)``."""
        with torch.no_grad():
            return decoder_of(model).answer(self.embeddings, **self.arguments).masks


def decoder_batch(encoded: Sequence[Encoded], images: int, prompts: int) -> DecoderBatch:
    """Batch the ``images`` images with the most prompts, ``prompts`` of each (fewer if they have fewer).

    Ties keep the given order, so the choice is repeatable.
    """
    chosen = sorted(encoded, key=lambda one: -min(len(one.prompts), prompts))[:images]
    count = min(prompts, *(len(one.prompts) for one in chosen))
    arguments: dict[str, list[Tensor]] = {}
    for one in chosen:
        taken = one.prompts[:count]
        if taken.boxes is not None:
            arguments.setdefault("input_boxes", []).append(one.frame.scale_boxes(taken.boxes))
        if taken.points is not None and taken.labels is not None:
            arguments.setdefault("input_points", []).append(one.frame.scale_points(taken.points))
            arguments.setdefault("input_labels", []).append(taken.labels)
    device = chosen[0].embedding.device
    stacked = {name: torch.stack(values).to(device) for name, values in arguments.items()}
    return DecoderBatch(Embedding.cat([one.embedding for one in chosen]), stacked, count)


_GRID = 4


def chosen_images(
    candidates: Sequence[tuple[ImageRecord, Prompts]],
    settings: Calibration,
    generator: torch.Generator,
    bad: BadEntries | None = None,
) -> list[CalibrationImage]:
    """At most ``settings.images`` images that have prompts, drawn without replacement, at most
    ``settings.prompts`` prompts of each.

    Args:
        candidates: images and their prompts.
        settings: how many of each.
        generator: everything random comes from it.
        bad: where it leaves bad entries out, images that cannot be read are listed there, and others are
            drawn in their place.

    Raises:
        UsageError: no image has a prompt.
        InputError: none of those that have one can be read.
    """
    usable = [(record, prompts) for record, prompts in candidates if len(prompts)]
    if not usable:
        raise UsageError("no image has a prompt to calibrate on: annotate objects, or use more detections")
    order = torch.randperm(len(usable), generator=generator).tolist()
    if bad is not None and bad.skip:
        order = list(
            islice((index for index in order if can_be_read(usable[index][0], bad)), settings.images)
        )
        bad.refuse_nothing(len(order))
    chosen = []
    for index in order[: settings.images]:
        record, prompts = usable[index]
        rows = torch.randperm(len(prompts), generator=generator)[: settings.prompts].sort().values
        chosen.append(CalibrationImage(record.path, _rows(prompts, rows), record))
    return chosen


def grid_of_points(
    paths: Sequence[Path], settings: Calibration, generator: torch.Generator, bad: BadEntries
) -> list[CalibrationImage]:
    """At most ``settings.images`` of the files, drawn without replacement, each with a grid of clicks.

    Args:
        paths: the files.
        settings: how many images, and how many clicks on each.
        generator: everything random comes from it.
        bad: where it leaves bad entries out, files that cannot be read are listed there, and others are drawn
            in their place.

    Raises:
        ImageError: a file cannot be read. InputError: none can.
    """
    chosen: list[CalibrationImage] = []
    for index in torch.randperm(len(paths), generator=generator).tolist():
        if len(chosen) == settings.images:
            break
        try:
            chosen.append(CalibrationImage(paths[index], _grid(paths[index], settings.prompts)))
        except ImageError as error:
            bad.leave_out_image(error)
    bad.refuse_nothing(len(chosen))
    return chosen


def calibration_files(images: str | Path | Iterable[str | Path]) -> list[Path]:
    """The files that ``images`` names.

    Args:
        images: a folder, searched with the folders in it and without hidden files; or the files themselves.
            ``~`` is the home directory.

    Raises:
        UsageError: there is no such folder, no image in it, or an entry is no path.
    """
    if isinstance(images, str | Path):
        path = expanded(images)
        return [path] if path.is_file() and is_image_name(path.name) else _files_in(path)
    if not isinstance(images, Iterable):
        raise UsageError(f"images: expected a folder or a list of files, got {type(images).__name__}")
    paths = []
    for index, entry in enumerate(images):
        if not isinstance(entry, str | Path):
            raise UsageError(
                f"images[{index}]: expected the path of a file, got {type(entry).__name__}; calibration "
                "reads files, so save pictures first and give their names"
            )
        paths.append(expanded(entry))
    if not paths:
        raise UsageError("no images to calibrate on: the list of files is empty; give at least one")
    return paths


def _files_in(directory: Path) -> list[Path]:
    if not directory.is_dir():
        raise UsageError(f"{directory}: no such directory of images; give one, or a list of files")
    files = image_files(directory)
    if not files:
        raise UsageError(
            f"{directory}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}), nor do the folders in it; "
            "hidden files do not count; give the folder that holds them"
        )
    return files


def _grid(path: Path, count: int) -> Prompts:
    """Clicks at a 4 x 4 grid, or at ``count`` of its places that are spread over the image."""
    height, width = open_image(path).pixels.shape[:2]
    ticks = (torch.arange(_GRID) + 0.5) / _GRID
    points = torch.cartesian_prod(ticks * width, ticks * height)[:, None, :]
    places = len(points)
    # A stride prime to the number of places visits each once and never stays in a row or column.
    rows = (torch.arange(min(places, count)) * (_GRID + 1)) % places
    return _rows(Prompts(points=points, labels=torch.ones(points.shape[:2], dtype=torch.int64)), rows)


def _rows(prompts: Prompts, rows: Tensor) -> Prompts:
    """The given rows of every field."""
    fields = (prompts.boxes, prompts.points, prompts.labels, prompts.masks)
    return Prompts(*(None if field is None else field[rows] for field in fields))
