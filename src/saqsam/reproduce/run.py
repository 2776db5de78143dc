"""A row from beginning to end: boxes, quantization, evaluation. What is finished is not done again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from saqsam import api
from saqsam.datasets.coco import read_instances
from saqsam.datasets.exif_words import STORED
from saqsam.datasets.framed import framed
from saqsam.datasets.listing import ListedImage, from_annotations, from_folder
from saqsam.datasets.strict_json import read_json
from saqsam.detectors.coco_names import COCO_CATEGORIES, category_ids
from saqsam.detectors.detector import Detector
from saqsam.detectors.registry import load_detector
from saqsam.detectors.run import detect_images, write_detections
from saqsam.errors import InputError, UsageError
from saqsam.files import atomic_write
from saqsam.pipeline import Progress
from saqsam.prompts.from_dataset import BOXES
from saqsam.recipe import Recipe, load_recipe
from saqsam.reproduce.files import Places
from saqsam.reproduce.rows import FLOAT, TRUTH, PaperRow
from saqsam.sam import Sam
from saqsam.tasks.instance import InstanceResult

SPARE = 16  # calibration images beyond the recipe's, since a detector may find nothing on some


@dataclass(frozen=True)
class Request:
    """What to repeat, on which machine.

    Attributes:
        row: of the papers' tables.
        places: of data and weights.
        out: directory of results; boxes and packed models in it are used again, by other rows too.
        limit: evaluate only the first images of val2017; None is all of them.
        settings: further changes to the recipe, after the row's own.
        device: for detector and SAM.
    """

    row: PaperRow
    places: Places
    out: Path
    limit: int | None = None
    settings: tuple[str, ...] = ()
    device: str = "cpu"


def reproduce(request: Request, progress: Progress = lambda stage, done, total: None) -> InstanceResult:
    """Repeat one row.

    Calibration images carry no labels: their prompts are the detector's boxes, as in the papers; the boxes of
    the ground truth where the row is prompted with those.

    Raises:
        InputError: an image of the set cannot be read, or the detector finds nothing to calibrate on.
        UsageError: the directory holds results made with other weights or settings.
        SaqsamError: as ``api.quantize`` and ``api.evaluate``.
    """
    places, row = request.places, request.row
    steps = _Steps(request, progress)
    boxes: Path | str = BOXES if row.detector == TRUTH else steps.val_boxes()
    sam = (
        steps.quantized() if row.method != FLOAT else api.load(places.sam_source(row), device=request.device)
    )
    return api.evaluate(
        sam,
        places.val_images,
        places.val_annotations,
        prompts=boxes,
        limit=request.limit,
        progress=progress,
        exif=STORED,  # as COCO counts
    )


class _Steps:
    """The steps of a row; the detector is opened once, and only where boxes are missing."""

    def __init__(self, request: Request, progress: Progress) -> None:
        self.request, self.progress = request, progress
        self._detector: Detector | None = None

    def val_boxes(self) -> Path:
        """The COCO-results file of boxes on val2017."""
        request = self.request
        self._same_detector()
        part = "" if request.limit is None else f"-first-{request.limit}"
        path = request.out / f"{request.row.detector}-val2017{part}.json"
        if not path.is_file():
            dataset = read_instances(request.places.val_annotations, request.places.val_images)
            chosen = framed(dataset, STORED, limit=request.limit)
            self._detect(path, from_annotations(chosen), dict(dataset.categories), "detect val2017")
        return path

    def quantized(self) -> Sam:
        """The packed model of the row, loaded back from its file."""
        request, row = self.request, self.request.row
        recipe = load_recipe(row.method, bits=row.bits, settings=(*row.settings, *request.settings))
        packed = request.out / f"{row.name}.safetensors"
        facts = {"sam": request.places.sam_source(row), "recipe": recipe.recipe_hash}
        _same(request.out / f"{row.name}.json", facts)
        if not packed.is_file():
            annotations, boxes = (
                (request.places.train_annotations, None)
                if row.detector == TRUTH
                else self._calibration(recipe)
            )
            sam = api.load(request.places.sam_source(row), device=request.device)
            quantized = api.quantize(
                sam,
                recipe,
                request.places.train_images,
                annotations=annotations,
                prompts=boxes,
                progress=self.progress,
                run_dir=request.out / f"{row.name}-run",
                exif=STORED,
            )
            quantized.save(packed)
        return api.load(packed, device=request.device)

    def _calibration(self, recipe: Recipe) -> tuple[Path, Path | None]:
        """A COCO file of a few images of train2017, without any annotation, and boxes on them; or its own
        annotations, whose boxes are the prompts."""
        request = self.request
        if request.row.detector == TRUTH:
            return request.places.train_annotations, None
        part = f"calibration-{recipe.calibration.images}-seed-{recipe.calibration.seed}"
        annotations = request.out / f"{part}.json"
        boxes = request.out / f"{request.row.detector}-{part}.json"
        images = _drawn(request.places.train_images, recipe)
        if not annotations.is_file():
            _write_json(annotations, _unlabelled(images))
        if not boxes.is_file():
            dataset = framed(read_instances(annotations, request.places.train_images), STORED)
            self._detect(
                boxes, from_annotations(dataset), dict(dataset.categories), "detect calibration images"
            )
        return annotations, boxes

    def _same_detector(self) -> None:
        """Boxes in the directory are used again only with the weights that found them."""
        path = self.request.places.detector_file(self.request.row)
        facts = {"detector": str(path.absolute()), "detector size": path.stat().st_size}
        _same(self.request.out / f"{self.request.row.detector}.json", facts)

    def _detect(
        self, path: Path, images: Sequence[ListedImage], categories: dict[int, str], stage: str
    ) -> None:
        row, places = self.request.row, self.request.places
        if self._detector is None:
            self._detector = load_detector(row.detector, places.detector_file(row), self.request.device)
        ids = category_ids(self._detector.class_names, categories, "the data set")
        run = detect_images(
            self._detector, images, ids, progress=lambda done, total: self.progress(stage, done, total)
        )
        if run.failures:
            raise InputError(
                f"{len(run.failures)} images cannot be read; copy or download them again: {run.failures[0]}"
            )
        if not run.entries:
            raise InputError(
                f"{row.detector} found nothing on {len(images)} images; its weights may be damaged, "
                "download them again"
            )
        write_detections(path, run)


def _same(path: Path, facts: dict[str, Any]) -> None:
    """Note what a result is made from, or compare with what was noted.

    Raises:
        UsageError: the result in this directory was made from something else.
    """
    if not path.is_file():
        _write_json(path, facts)
        return
    noted = read_json(path)
    other = [key for key in facts if not isinstance(noted, dict) or noted.get(key) != facts[key]]
    if other:
        raise UsageError(
            f"{path}: results here were made with another {other[0]}; choose another --out, "
            f"or remove this file and the results that belong to it"
        )


def _drawn(folder: Path, recipe: Recipe) -> list[ListedImage]:
    """Images drawn with the recipe's seed, in the order drawn."""
    listed = from_folder(folder)
    generator = torch.Generator().manual_seed(recipe.calibration.seed)
    order = torch.randperm(len(listed), generator=generator)[: recipe.calibration.images + SPARE]
    return [replace(listed[index], id=position + 1) for position, index in enumerate(order.tolist())]


def _unlabelled(images: Sequence[ListedImage]) -> dict[str, Any]:
    entries = []
    for image in images:
        height, width = image.stored_size()
        entries.append({"id": image.id, "file_name": image.path.name, "height": height, "width": width})
    categories = [{"id": key, "name": name} for key, name in COCO_CATEGORIES.items()]
    return {"images": entries, "annotations": [], "categories": categories}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")
