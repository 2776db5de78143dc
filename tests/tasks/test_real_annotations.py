"""Fifty real COCO images: the same masks and figures as pycocotools, crowds and odd polygons included."""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from transformers import SamModel

from saqsam.datasets.coco import read_instances
from saqsam.datasets.masks import encode_mask
from saqsam.prompts.from_dataset import prompts_for
from saqsam.sam import Sam
from saqsam.tasks.coco_ap import NAMES, _figures, coco_truth
from saqsam.tasks.instance import evaluate_instances

if TYPE_CHECKING:
    from tests.conftest import Coco50

# pycocotools was compiled before numpy 2 asked for this.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def test_masks_and_average_precision_are_those_of_pycocotools(coco50: Coco50) -> None:
    dataset = read_instances(coco50.annotations, coco50.images)
    assert dataset.notes == ()
    rng = np.random.default_rng(2)
    results = []
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = COCO(str(coco50.annotations))
    for image in dataset.images:
        for one in dataset.instances_of(image.id):
            mask = one.mask()
            assert np.array_equal(mask, theirs.annToMask(theirs.anns[one.id]).astype(bool))
            moved = np.roll(mask, rng.integers(-4, 5, 2), (0, 1))
            code = encode_mask(moved)
            counts = code["counts"].decode("ascii")
            results.append(
                {
                    "image_id": image.id,
                    "category_id": one.category_id,
                    "segmentation": {"size": code["size"], "counts": counts},
                    "score": float(rng.random()),
                }
            )
    with contextlib.redirect_stdout(io.StringIO()):
        run = COCOeval(theirs, theirs.loadRes([dict(row) for row in results]), "segm")
        run.evaluate()
        run.accumulate()
        run.summarize()
    expected = dict(zip(NAMES, map(float, run.stats[:6]), strict=True))
    assert _figures(coco_truth(dataset), results) == pytest.approx(expected, abs=1e-12)
    assert 0.2 < expected["AP"] < 0.9


def test_real_photographs_are_evaluated(coco50: Coco50, nano: SamModel) -> None:
    """Not what the shipped model was made for: at its input most objects are a few pixels. But no chance."""
    dataset = read_instances(coco50.annotations, coco50.images).first(3)
    result = evaluate_instances(Sam(nano, "nano"), dataset, prompts_for(dataset, "boxes"))
    objects = [one for image in dataset.images for one in dataset.instances_of(image.id) if not one.iscrowd]
    assert result.instances == len(objects)
    assert result.nan_count == 0
    assert result.mIoU > 0.1
