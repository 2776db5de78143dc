"""Annotation files broken at random: read or refused, and what is read can be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from saqsam.errors import AnnotationError
from saqsam.tasks.coco_json import read_instances
from saqsam.tasks.instance import coco_truth
from saqsam.tasks.outlines import decode_mask

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


def test_ten_thousand_mutated_files_are_read_or_refused(tmp_path: Path, document: dict[str, Any]) -> None:
    """What passes is used: every mask is drawn by the C code that would crash on a bad one."""
    rng = np.random.default_rng(20_25)
    path = tmp_path / "a.json"
    accepted = 0
    for _ in range(10_000):
        changed = document
        for _ in range(int(rng.integers(1, 4))):
            changed = mutated(changed, rng)
        text = json.dumps(changed)
        if rng.random() < 0.1:
            spot = int(rng.integers(len(text)))
            text = text[:spot] + chr(int(rng.integers(32, 127))) * int(rng.integers(0, 2)) + text[spot + 1 :]
        path.unlink(missing_ok=True)  # some file systems wait for the disk when a file is overwritten
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        try:
            found = read_instances(path, tmp_path)
        except AnnotationError:
            continue
        accepted += 1
        for image in found.images:
            for one in found.instances_of(image.id):
                assert decode_mask(one.segmentation).shape == (image.height, image.width)
        coco_truth(found)
    assert 500 < accepted < 9_500
