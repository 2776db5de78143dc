"""Images with prompts to compare two implementations on: the user's own, or generated ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from saqsam.datasets.coco import read_instances
from saqsam.datasets.exif_words import STORED
from saqsam.datasets.framed import framed
from saqsam.datasets.instances import InstanceSet, open_listed
from saqsam.errors import UnknownFrame, UsageError
from saqsam.export.parity import Case
from saqsam.images.files import open_image
from saqsam.prompts.from_dataset import prompts_for
from saqsam.prompts.prompts import checked_prompts
from saqsam.scenes import make_scene

DEFAULT_IMAGES = 4
MOST_PROMPTS = 16
_SCENE_SEED = 20_240


def cases_for(images: Path | None, annotations: Path | None, limit: int = DEFAULT_IMAGES) -> list[Case]:
    """At most ``limit`` images with at most 16 prompts each.

    Args:
        images: folder; ``None`` takes generated scenes.
        annotations: COCO instances of these images, whose boxes prompt; without it, one click in the middle.
        limit: of images.

    Raises:
        UsageError: annotations without images, or a folder without any image.
    """
    if images is None:
        if annotations is not None:
            raise UsageError("--annotations needs --images, the folder its file names refer to")
        return generated_cases(limit)
    if annotations is None:
        files = sorted(path for path in images.iterdir() if path.is_file())[:limit]
        if not files:
            raise UsageError(f"--images {images}: there is no file in it; give the folder with images")
        return [_clicked(path) for path in files]
    dataset = _in_some_frame(read_instances(annotations, images, masks=False, categories=False))
    prompts = prompts_for(dataset, "boxes")
    listed = [image for image in dataset.images if image.id in prompts][:limit]
    return [
        Case(image.file_name, open_listed(image).pixels, prompts[image.id].prompts[:MOST_PROMPTS])
        for image in listed
    ]


def _in_some_frame(dataset: InstanceSet) -> InstanceSet:
    """Both sides of a comparison see the same pixels, so a frame that nobody knows does no harm here."""
    try:
        return framed(dataset)
    except UnknownFrame:
        return framed(dataset, STORED)


def generated_cases(count: int) -> list[Case]:
    """Generated scenes with the boxes of their objects; always the same ones."""
    generator = np.random.default_rng(_SCENE_SEED)
    cases: list[Case] = []
    while len(cases) < count:
        scene = make_scene(generator)
        if len(scene):
            height, width = scene.image.shape[:2]
            prompts = checked_prompts(width, height, boxes=scene.boxes[:MOST_PROMPTS])[0]
            cases.append(Case(f"generated scene {len(cases) + 1}", scene.image, prompts))
    return cases


def _clicked(path: Path) -> Case:
    pixels = open_image(path).pixels
    height, width = pixels.shape[:2]
    prompts = checked_prompts(width, height, points=[[width / 2, height / 2]])[0]
    return Case(path.name, pixels, prompts)
