"""The instance task on a real small model, against the same figures written out in numpy."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SamModel

from saqsam.datasets.coco import read_instances
from saqsam.datasets.instances import InstanceSet
from saqsam.images.files import open_image
from saqsam.prompts.from_dataset import prompts_for
from saqsam.sam import Sam
from saqsam.segment.predictor import predict
from saqsam.shipped.embedded import embedded_sam
from saqsam.tasks.instance import InstanceResult, evaluate_instances


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """A list that gets the bytes by which the process grew at its largest."""
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not os.access(reset, os.W_OK):
        pytest.skip("this platform does not tell peak memory")

    def kilobytes(name: str) -> int:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if name in line)

    reset.write_text("5")
    before, taken = kilobytes("VmRSS"), []
    yield taken
    taken.append(1024.0 * (kilobytes("VmHWM") - before))


def iou(mask: np.ndarray, other: np.ndarray) -> float:
    union = (mask | other).sum()
    return float((mask & other).sum() / union) if union else 0.0


def masks_of(model: SamModel, dataset: InstanceSet, prompts: dict[int, Any]) -> dict[int, np.ndarray]:
    """Masks by image id, straight from the predictor."""
    return {
        image.id: predict(model, open_image(image.path).pixels, prompts[image.id].prompts).masks
        for image in dataset.images
        if image.id in prompts
    }


def figures(result: InstanceResult) -> dict[str, Any]:
    return {
        key: value for key, value in result.to_dict().items() if key not in ("seconds", "notes", "left_out")
    }


def write_detections(path: Path, dataset: InstanceSet, images: int) -> Path:
    """Shifted boxes of the objects of the first images, two for each object, plus one of a wrong category."""
    rows = []
    for image in dataset.images[:images]:
        for index, one in enumerate(dataset.instances_of(image.id)):
            x0, y0, x1, y1 = one.box_xyxy
            for shift in (0, 3):
                box = [x0 + shift, y0 - shift, x1 - x0, y1 - y0]
                score = 0.9 - 0.1 * shift - 0.01 * index
                rows.append((image.id, one.category_id, box, score))
        rows.append((image.id, one.category_id % 8 + 1, box, 0.33))
    keys = ("image_id", "category_id", "bbox", "score")
    path.write_text(json.dumps([dict(zip(keys, row, strict=True)) for row in rows]))
    return path


def test_with_boxes_the_figures_are_those_of_a_plain_loop(nano: SamModel, scene_set: InstanceSet) -> None:
    prompts = prompts_for(scene_set, "boxes")
    result = evaluate_instances(Sam(nano, "nano"), scene_set, prompts)
    masks = masks_of(nano, scene_set, prompts)
    pairs = [
        iou(mask, one.mask())
        for image in scene_set.images
        for mask, one in zip(masks[image.id], scene_set.instances_of(image.id), strict=True)
    ]
    assert result.mIoU == pytest.approx(np.mean(pairs), abs=1e-12)
    assert (result.images, result.instances) == (6, len(pairs))
    assert (result.model, result.bits, result.prompts) == ("nano", "float", "boxes")
    assert (result.nan_count, result.images_without_prompts, result.agreement) == (0, 0, None)
    assert result.mIoU > 0.6
    assert 0.3 < result.AP < 1


def test_with_detections_every_object_is_measured_by_its_best_mask(
    nano: SamModel, scene_set: InstanceSet, tmp_path: Path
) -> None:
    prompts = prompts_for(scene_set, write_detections(tmp_path / "found.json", scene_set, 4))
    result = evaluate_instances(Sam(nano, "nano"), scene_set, prompts, "found.json")
    masks = masks_of(nano, scene_set, prompts)
    best = []
    for image in scene_set.images:
        for one in scene_set.instances_of(image.id):
            candidates = [
                iou(mask, one.mask())
                for mask, category in zip(
                    masks.get(image.id, ()),
                    prompts[image.id].category_ids if image.id in prompts else (),
                    strict=True,
                )
                if category == one.category_id
            ]
            best.append(max(candidates, default=0.0))
    assert result.mIoU == pytest.approx(np.mean(best), abs=1e-12)
    assert result.images_without_prompts == 2
    assert result.instances == sum(len(masks[key]) for key in masks)
    assert best[-1] == 0.0


def test_agreement_is_the_mean_iou_with_the_reference(nano: SamModel, scene_set: InstanceSet) -> None:
    other = embedded_sam("nano-outliers")
    with torch.no_grad():  # another function, not only another parametrisation
        other.mask_decoder.output_hypernetworks_mlps[0].proj_out.weight.mul_(0.7)
    prompts = prompts_for(scene_set, "points")
    result = evaluate_instances(Sam(nano, "a"), scene_set, prompts, "points", Sam(other, "b"))
    ours, theirs = masks_of(nano, scene_set, prompts), masks_of(other, scene_set, prompts)
    pairs = [
        iou(a, b) if (a | b).any() else 1.0
        for key in ours
        for a, b in zip(ours[key], theirs[key], strict=True)
    ]
    assert result.agreement == pytest.approx(np.mean(pairs), abs=1e-12)
    assert 0.2 < result.agreement < 1
    itself = evaluate_instances(Sam(nano, "a"), scene_set, prompts, "points", Sam(nano, "b"))
    assert itself.agreement == 1.0


def test_the_order_of_images_does_not_matter(nano: SamModel, scene_set: InstanceSet) -> None:
    backwards = dataclasses.replace(scene_set, images=scene_set.images[::-1])
    prompts = prompts_for(scene_set, "boxes")
    forwards = figures(evaluate_instances(Sam(nano, "nano"), scene_set, prompts))
    reverse = figures(evaluate_instances(Sam(nano, "nano"), backwards, prompts))
    assert forwards == pytest.approx(reverse, abs=1e-12)


def broken(nano: SamModel, part: str) -> SamModel:
    """A model whose decoder, or only whose score, is NaN."""
    layer = {
        "score": nano.mask_decoder.iou_prediction_head.proj_out,
        "mask": nano.mask_decoder.output_hypernetworks_mlps[0].proj_out,
    }[part]
    with torch.no_grad():
        layer.bias.fill_(float("nan"))
    return nano


@pytest.mark.parametrize("part", ["score", "mask"])
def test_nan_scores_worse_never_better_and_is_counted(
    nano: SamModel, scene_set: InstanceSet, part: str
) -> None:
    prompts = prompts_for(scene_set, "boxes")
    sound = Sam(embedded_sam("nano"), "nano")
    result = evaluate_instances(Sam(broken(nano, part), "broken"), scene_set, prompts, reference=sound)
    assert result.nan_count == result.instances > 0
    assert (result.AP, result.mIoU, result.agreement) == (0.0, 0.0, 0.0)
    as_reference = evaluate_instances(sound, scene_set, prompts, reference=Sam(nano, "broken"))
    assert as_reference.agreement == 0.0
    assert as_reference.nan_count == 0


def test_objects_nothing_was_asked_about_count_as_missed(nano: SamModel, scene_set: InstanceSet) -> None:
    prompts = prompts_for(scene_set, "boxes")
    whole = evaluate_instances(Sam(nano, "nano"), scene_set, prompts)
    nothing = evaluate_instances(Sam(nano, "nano"), scene_set, {})
    assert (nothing.mIoU, nothing.AP, nothing.instances, nothing.images_without_prompts) == (0.0, 0.0, 0, 6)
    first = scene_set.images[0].id
    half = evaluate_instances(Sam(nano, "nano"), scene_set, {first: prompts[first]})
    assert 0 < half.mIoU < whole.mIoU
    assert half.images_without_prompts == 5


def test_images_without_objects(nano: SamModel, scene_set: InstanceSet) -> None:
    empty = dataclasses.replace(scene_set, instances={})
    result = evaluate_instances(Sam(nano, "nano"), empty, prompts_for(empty, "boxes"))
    assert (result.AP, result.mIoU, result.agreement, result.instances) == (-1.0, None, None, 0)


def test_boxes_past_the_image_are_counted(nano: SamModel, scene_set: InstanceSet, tmp_path: Path) -> None:
    image = scene_set.images[0]
    row = {"image_id": image.id, "category_id": 1, "bbox": [-5, 2, 60, 60], "score": 0.5}
    (tmp_path / "found.json").write_text(json.dumps([row, {**row, "bbox": [5, 2, 60, 60]}]))
    prompts = prompts_for(scene_set, tmp_path / "found.json")
    assert evaluate_instances(Sam(nano, "nano"), scene_set, prompts).clipped_boxes == 1


def test_dark_pictures_and_masks_without_a_pixel_are_noted(
    nano: SamModel, scene_set: InstanceSet, tmp_path: Path
) -> None:
    one = scene_set.first(1)
    (image,) = one.images
    first, *others = one.instances_of(image.id)
    thin = dataclasses.replace(first, outline=[[1, 2, 9, 2, 5, 2]])
    Image.fromarray(open_image(image.path).pixels // 20).save(tmp_path / "dark.png")
    dark = dataclasses.replace(image, path=tmp_path / "dark.png")
    changed = dataclasses.replace(one, images=(dark,), instances={image.id: [thin, *others]})
    notes = evaluate_instances(Sam(nano, "nano"), changed, prompts_for(one, "boxes")).notes
    assert any(note.startswith("1 of 1 pictures are nearly black") for note in notes)
    assert any(note.startswith("1 annotated masks hold no pixel") for note in notes)
    assert not evaluate_instances(Sam(nano, "nano"), one, prompts_for(one, "boxes")).notes


def test_seconds_are_those_of_the_evaluated_model(
    nano: SamModel, scene_set: InstanceSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock of our own, whatever else the machine does: encoders take seconds, the rest none."""
    now, slow = 0, embedded_sam("nano")

    def takes(seconds: int) -> Callable[..., None]:
        def hook(*_: object) -> None:
            nonlocal now
            now += seconds

        return hook

    nano.vision_encoder.register_forward_hook(takes(1))
    slow.vision_encoder.register_forward_hook(takes(100))
    two = scene_set.first(2)
    prompts = prompts_for(two, "boxes")
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    assert evaluate_instances(Sam(nano, "nano"), two, prompts, reference=Sam(slow, "slow")).seconds == 2
    assert evaluate_instances(Sam(slow, "slow"), two, prompts).seconds == 200


def test_full_size_masks_exist_only_a_few_at_a_time(
    nano: SamModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """60 masks of 1250 x 1000 pixels take 75 MB, and 75 more for the reference's."""
    rng = np.random.default_rng(1)
    small = Image.fromarray(rng.integers(0, 256, (25, 20, 3), dtype=np.uint8))
    small.resize((1000, 1250)).save(tmp_path / "large.png", compress_level=1)
    corners = rng.integers(0, 700, (60, 2)).tolist()
    annotations = [
        {
            "id": index + 1,
            "image_id": 1,
            "category_id": 1,
            "bbox": [x, y, 300, 300],
            "segmentation": [[x, y, x + 300, y, x + 300, y + 300]],
        }
        for index, (x, y) in enumerate(corners)
    ]
    document = {
        "images": [{"id": 1, "file_name": "large.png", "width": 1000, "height": 1250}],
        "categories": [{"id": 1, "name": "triangle"}],
        "annotations": annotations,
    }
    (tmp_path / "a.json").write_text(json.dumps(document))
    dataset = read_instances(tmp_path / "a.json", tmp_path)
    prompts = prompts_for(dataset, "boxes")
    sam = Sam(nano, "nano")
    # The limits are made for gigabytes; lowered, they show on a picture that a test can afford.
    monkeypatch.setattr("saqsam.segment.predictor._ENLARGED_PIXELS", 1 << 21)
    monkeypatch.setattr("saqsam.segment.predictor._PART_PIXELS", 1 << 22)
    few = dataclasses.replace(prompts[1], prompts=prompts[1].prompts[:5], instances=prompts[1].instances[:5])
    few = dataclasses.replace(few, category_ids=few.category_ids[:5], scores=few.scores[:5])
    evaluate_instances(sam, dataset, {1: few}, reference=sam)  # what is needed however few prompts there are
    with peak_memory() as taken:
        result = evaluate_instances(sam, dataset, prompts, reference=sam)
    assert result.instances == 60
    assert taken[0] < 45e6
