"""COCO mask AP against pycocotools, on random sets and on every corner that has one right answer."""

from __future__ import annotations

import contextlib
import copy
import io
import os
import stat
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from saqsam.datasets.masks import encode_mask
from saqsam.errors import SaqsamError
from saqsam.tasks.coco_ap import NAMES, coco_mask_ap
from saqsam.tasks.coco_ap import _figures as figures_of

Document = dict[str, Any]
Results = list[dict[str, Any]]


def by_pycocotools(truth: Document, results: Results) -> dict[str, float]:
    """The same six figures by the reference implementation; it needs at least one result."""
    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO()
        ground.dataset = copy.deepcopy(truth)
        ground.createIndex()
        run = COCOeval(ground, ground.loadRes(copy.deepcopy(results)), "segm")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return dict(zip(NAMES, map(float, run.stats[:6]), strict=True))


def figures(truth: Document, results: Results) -> dict[str, float]:
    """Ours, without the child process; the metric library writes into what it is given."""
    return figures_of(copy.deepcopy(truth), copy.deepcopy(results))


def segmentation(mask: np.ndarray) -> dict[str, Any]:
    code = encode_mask(mask)
    return {"size": code["size"], "counts": code["counts"].decode("ascii")}


def ellipse(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A random ellipse, sometimes partly or wholly off the image; small, medium and large in COCO's sense."""
    y, x = np.mgrid[:height, :width]
    radii = np.exp(rng.uniform(np.log(2), np.log(90), 2))
    centre = rng.uniform((0, 0), (height, width))
    return ((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 <= 1


def random_set(seed: int) -> tuple[Document, Results]:
    """Images of some categories, with crowds, empty images, jittered, duplicate, wrong and missing masks."""
    rng = np.random.default_rng([91, seed])
    images = [
        {"id": 10 + 3 * i, "height": int(rng.integers(20, 160)), "width": int(rng.integers(20, 160))}
        for i in range(int(rng.integers(1, 6)))
    ]
    categories = [{"id": 7 * i + 1, "name": f"c{i}"} for i in range(int(rng.integers(1, 4)))]
    annotations: list[dict[str, Any]] = []
    results: Results = []
    tie = rng.random() < 0.5
    for image in images:
        for _ in range(int(rng.integers(0, 7))):
            mask = ellipse(rng, image["height"], image["width"])
            category = int(rng.choice([c["id"] for c in categories]))
            entry = {
                "image_id": image["id"],
                "category_id": category,
                "segmentation": segmentation(mask),
            }
            box = (
                [float(side) for side in np.r_[np.argwhere(mask).min(0)[::-1], 5, 5]]
                if mask.any()
                else [0] * 4
            )
            area = float(mask.sum()) * float(rng.choice([1.0, 1.1]))
            crowd = int(rng.random() < 0.2)
            annotations.append(
                {"id": len(annotations) + 1, "area": area, "iscrowd": crowd, "bbox": box, **entry}
            )
            for _ in range(int(rng.integers(0, 3))):
                found = np.roll(mask, rng.integers(-3, 4, 2), (0, 1))
                score = float(rng.integers(1, 4) / 4 if tie else rng.random())
                results.append({**entry, "segmentation": segmentation(found), "score": score})
        for _ in range(int(rng.integers(0, 3))):
            found = ellipse(rng, image["height"], image["width"])
            category = int(rng.choice([c["id"] for c in categories]))
            results.append(
                {
                    "image_id": image["id"],
                    "category_id": category,
                    "segmentation": segmentation(found),
                    "score": float(rng.random()),
                }
            )
    return {"images": images, "categories": categories, "annotations": annotations}, results


def square(size: int = 40, at: int = 4) -> np.ndarray:
    mask = np.zeros((64, 64), bool)
    mask[at : at + size, at : at + size] = True
    return mask


def one_object(mask: np.ndarray, crowd: int = 0) -> Document:
    return {
        "images": [{"id": 1, "height": 64, "width": 64}],
        "categories": [{"id": 3, "name": "thing"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 3,
                "area": float(mask.sum()),
                "iscrowd": crowd,
                "bbox": [4.0, 4.0, 40.0, 40.0],
                "segmentation": segmentation(mask),
            }
        ],
    }


def result(mask: np.ndarray, score: float = 0.5, image: int = 1) -> dict[str, Any]:
    return {"image_id": image, "category_id": 3, "segmentation": segmentation(mask), "score": score}


def test_random_sets_agree_with_pycocotools() -> None:
    compared = 0
    for seed in range(250):
        truth, results = random_set(seed)
        if not results:
            continue
        ours, theirs = figures(truth, results), by_pycocotools(truth, results)
        assert ours == pytest.approx(theirs, abs=1e-12, rel=0), f"set {seed}"
        compared += 1
    assert compared > 200


def test_more_than_a_hundred_masks_of_one_category_agree_with_pycocotools() -> None:
    rng = np.random.default_rng(5)
    truth = one_object(square())
    results = [
        result(np.roll(square(), rng.integers(-9, 9, 2), (0, 1)), float(rng.random())) for _ in range(150)
    ]
    ours = figures(truth, results)
    assert ours == pytest.approx(by_pycocotools(truth, results), abs=1e-12, rel=0)


@pytest.mark.parametrize("seed", [3, 4])
def test_the_child_process_gives_the_same_figures(seed: int) -> None:
    truth, results = random_set(seed)
    assert results
    assert coco_mask_ap(truth, results) == figures(truth, results)


def test_perfect_masks_score_one_and_absent_sizes_minus_one() -> None:
    found = figures(one_object(square()), [result(square())])
    assert found["AP"] == found["AP50"] == found["AP75"] == found["AP_medium"] == pytest.approx(1.0)
    assert found["AP_small"] == found["AP_large"] == -1.0


def test_a_shifted_mask_scores_the_share_of_thresholds_below_its_iou() -> None:
    moved = np.roll(square(), 6, 1)
    iou = (34 * 40) / (2 * 40 * 40 - 34 * 40)  # 0.739: thresholds 0.50 ... 0.70 are met, five of ten
    assert 0.70 < iou < 0.75
    found = figures(one_object(square()), [result(moved)])
    assert found["AP"] == pytest.approx(0.5)
    assert (found["AP50"], found["AP75"]) == (pytest.approx(1.0), 0.0)


def test_nothing_found_scores_zero_as_a_wrong_mask_does() -> None:
    assert figures(one_object(square()), [])["AP"] == 0.0
    wrong = np.zeros((64, 64), bool)
    wrong[60:, 60:] = True
    assert figures(one_object(square()), [result(wrong)])["AP"] == 0.0


@pytest.mark.parametrize("found", [[], [result(square())]], ids=["no masks", "a mask"])
def test_nothing_to_find_is_minus_one(found: Results) -> None:
    nothing = {**one_object(square()), "annotations": []}
    assert figures(nothing, found) == dict.fromkeys(NAMES, -1.0)
    assert figures(one_object(square(), crowd=1), found) == dict.fromkeys(NAMES, -1.0)


def test_a_mask_on_a_crowd_is_neither_right_nor_wrong() -> None:
    truth = one_object(square(20, 30))
    crowd = one_object(square(24, 2), crowd=1)["annotations"][0]
    truth["annotations"].append({**crowd, "id": 2})
    with_crowd = [result(square(20, 30), 0.4), result(square(10, 5), 0.9)]
    assert figures(truth, with_crowd)["AP"] == pytest.approx(1.0)
    truth["annotations"].pop()
    assert figures(truth, with_crowd)["AP"] == pytest.approx(0.5)


def test_the_order_of_images_annotations_and_results_does_not_matter() -> None:
    truth, results = random_set(11)
    rng = np.random.default_rng(0)
    for index, one in enumerate(results):
        one["score"] = 0.1 + index / 1000  # distinct: ties are settled by order, as everywhere
    expected = figures(truth, results)
    for _ in range(5):
        shuffled = {key: [rows[i] for i in rng.permutation(len(rows))] for key, rows in truth.items()}
        mixed = [results[i] for i in rng.permutation(len(results))]
        assert figures(shuffled, mixed) == pytest.approx(expected, abs=1e-12)


def test_names_in_any_script_pass_through_the_child_in_a_plain_locale(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    truth = one_object(square())
    truth["categories"][0]["name"] = "猫 🐈"
    assert coco_mask_ap(truth, [result(square())])["AP"] == pytest.approx(1.0)


def test_files_in_the_working_directory_are_not_imported_by_the_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "faster_coco_eval.py").write_text("raise SystemExit('imported a stranger')")
    monkeypatch.chdir(tmp_path)
    assert coco_mask_ap(one_object(square()), [result(square())])["AP"] == pytest.approx(1.0)


def test_a_failure_of_the_metric_library_is_an_error_of_ours() -> None:
    truth = one_object(square())
    del truth["annotations"][0]["image_id"]
    with pytest.raises(SaqsamError, match=r"COCO evaluation failed: .*image_id") as caught:
        coco_mask_ap(truth, [result(square())])
    assert "\n" not in str(caught.value)


def test_a_crash_of_the_child_is_an_error_that_names_the_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashing = tmp_path / "python"
    crashing.write_text("#!/bin/sh\nkill -SEGV $$\n")
    crashing.chmod(crashing.stat().st_mode | stat.S_IXUSR)
    if not os.access(crashing, os.X_OK):
        pytest.skip("temporary files cannot be executed here")
    monkeypatch.setattr(sys, "executable", str(crashing))
    with pytest.raises(SaqsamError, match="SIGSEGV"):
        coco_mask_ap(one_object(square()), [result(square())] * 2000)
