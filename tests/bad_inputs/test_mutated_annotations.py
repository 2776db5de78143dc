"""Annotation files broken at random: read or refused, and what is read can be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tests.bad_inputs.annotations import HEIGHT, WIDTH

from saqsam.datasets.bad_entries import BadEntries
from saqsam.datasets.coco import read_instances
from saqsam.datasets.masks import decode_mask
from saqsam.errors import AnnotationError
from saqsam.prompts.from_dataset import prompts_for
from saqsam.tasks.coco_ap import coco_truth

STRANGE = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, -1e300, 1e-300, "", "1", "a", "\0", "🐈",
    [], [[]], [1], [None], {}, {"size": []}, {"counts": "a"}, [1e8] * 6, [0] * 7, [[0, 0, 0, 0, 0, 0]],
)  # fmt: skip


def mutated(value: Any, rng: np.random.Generator) -> Any:
    """A copy of a JSON value with something somewhere in it replaced, removed, doubled or shaken."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = list(value)[rng.integers(len(value))]
        changed = dict(value)
        if rng.random() < 0.12:
            del changed[key]
        else:
            changed[key] = mutated(value[key], rng)
        return changed
    if isinstance(value, list) and value and rng.random() < 0.9:
        index = int(rng.integers(len(value)))
        if rng.random() < 0.2:
            return value[:index] + value[index + int(rng.integers(0, 2)) :] + value[: rng.integers(0, 2)]
        return [*value[:index], mutated(value[index], rng), *value[index + 1 :]]
    if isinstance(value, str) and value and rng.random() < 0.7:
        index = int(rng.integers(len(value)))
        return value[:index] + chr(int(rng.integers(33, 127))) * int(rng.integers(0, 3)) + value[index + 1 :]
    if isinstance(value, int | float) and rng.random() < 0.5:
        return value * float(rng.choice([-1, 2, 1e6])) + int(rng.integers(-3, 4))
    return STRANGE[rng.integers(len(STRANGE))]


def write(path: Path, document: Any, rng: np.random.Generator) -> None:
    """A document as a file; one in ten has a character changed, lost or added."""
    text = json.dumps(document)
    if rng.random() < 0.1:
        spot = int(rng.integers(len(text)))
        text = text[:spot] + chr(int(rng.integers(32, 127))) * int(rng.integers(0, 2)) + text[spot + 1 :]
    path.unlink(missing_ok=True)  # some file systems wait for the disk when a file is overwritten
    path.write_text(text, encoding="utf-8", errors="surrogatepass")


def any_policy(rng: np.random.Generator) -> BadEntries:
    return BadEntries("skip" if rng.random() < 0.5 else "stop")


def test_thousands_of_mutated_files_are_read_or_refused(tmp_path: Path, document: dict[str, Any]) -> None:
    """What passes is used: every mask is drawn by the C code that would crash on a bad one."""
    rng = np.random.default_rng(20_25)
    path = tmp_path / "a.json"
    accepted = 0
    for _ in range(6_000):
        changed = document
        for _ in range(int(rng.integers(1, 4))):
            changed = mutated(changed, rng)
        write(path, changed, rng)
        masks = bool(rng.random() < 0.8)
        try:
            found = read_instances(path, tmp_path, masks=masks, bad=any_policy(rng))
        except AnnotationError:
            continue
        accepted += 1
        prompts_for(found, "boxes")
        if not masks:
            continue
        if rng.random() < 0.2:
            prompts_for(found, "points")
        for image in found.images:
            for one in found.instances_of(image.id):
                assert decode_mask(one.segmentation).shape == (image.height, image.width)
        coco_truth(found)
    assert 500 < accepted < 5_500


def test_thousands_of_mutated_detections_are_read_or_refused(
    tmp_path: Path, document: dict[str, Any]
) -> None:
    """What passes can be asked: boxes inside their image, with an area, of images and categories known."""
    rng = np.random.default_rng(20_26)
    (tmp_path / "a.json").write_text(json.dumps(document))
    dataset = read_instances(tmp_path / "a.json", tmp_path)
    row = {"image_id": 1, "category_id": 4, "bbox": [2, 3.5, 10, 10], "score": 0.5}
    rows = [row, {**row, "image_id": 2, "score": 1}, {**row, "bbox": [30, 20, 10, 10], "category_id": 9}]
    path = tmp_path / "found.json"
    accepted = 0
    for _ in range(3_000):
        changed: Any = rows if rng.random() < 0.8 else {"annotations": rows}
        for _ in range(int(rng.integers(1, 4))):
            changed = mutated(changed, rng)
        write(path, changed, rng)
        try:
            found = prompts_for(dataset, path, bad=any_policy(rng))
        except AnnotationError:
            continue
        accepted += 1
        assert found.keys() <= {1, 2}
        for one in found.values():
            boxes = one.prompts.boxes
            assert bool((boxes[:, 2:] > boxes[:, :2]).all())
            assert bool((boxes >= 0).all() and (boxes[:, 2] <= WIDTH).all() and (boxes[:, 3] <= HEIGHT).all())
            assert set(one.category_ids) <= {4, 9}
            assert np.isfinite(one.scores).all()
    assert 200 < accepted < 2_800
