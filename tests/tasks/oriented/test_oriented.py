"""The oriented task from boxes to figures, on the embedded model."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from saqsam.cli.app import run
from saqsam.sam import Sam
from saqsam.tasks.dota_labels import read_dota_labels
from saqsam.tasks.dota_patches import Patching
from saqsam.tasks.dota_results import write_task1
from saqsam.tasks.oriented import OrientedResult, evaluate_oriented
from saqsam.tasks.oriented_ap import OrientedDetection
from saqsam.tasks.oriented_boxes import mask_corners, oriented_iou
from saqsam.tasks.oriented_set import OrientedSet, oriented_prompts, read_oriented


def measured(
    sam: Sam, dataset: OrientedSet, patching: Patching | None = None
) -> tuple[OrientedResult, list[OrientedDetection]]:
    return evaluate_oriented(sam, dataset, oriented_prompts(dataset, "boxes"), patching=patching)


def test_figures_are_those_of_the_masks(float_sam: Sam, scene_directory: Path) -> None:
    """Boxes, masks and rectangles once more, image by image, with the public ``segment``."""
    dataset = read_oriented(scene_directory / "labels", scene_directory / "images")
    result, detections = measured(float_sam, dataset)
    overlaps = []
    for image in dataset.listing.images:
        objects = dataset.objects[image.id]
        boxes = [[*one.corners.min(0), *one.corners.max(0)] for one in objects]
        masks = float_sam.segment(image.path, boxes=boxes).masks
        for mask, one in zip(masks, objects, strict=True):
            corners = mask_corners(mask)
            assert corners is not None
            overlaps.append(oriented_iou(corners[None], one.corners[None])[0, 0])
    assert result.mIoU == pytest.approx(np.mean(overlaps), abs=1e-6)
    assert result.instances == len(overlaps) >= len(detections)
    assert result.mIoU > 0.6, "the embedded model is trained on such scenes"
    assert result.AP50 > 0.6


def test_folder_and_json_give_the_same_figures(float_sam: Sam, scene_directory: Path) -> None:
    images = scene_directory / "images"
    from_folder, _ = measured(float_sam, read_oriented(scene_directory / "labels", images))
    from_json, _ = measured(float_sam, read_oriented(scene_directory / "instances.json", images))
    assert pytest.approx(from_json.AP50) == from_folder.AP50
    assert {name: one.AP50 for name, one in from_folder.classes.items()} == {
        name: one.AP50 for name, one in from_json.classes.items()
    }


def test_a_packed_model_comes_close(float_sam: Sam, packed_sam: Sam, scene_directory: Path) -> None:
    dataset = read_oriented(scene_directory / "labels", scene_directory / "images")
    expected, found = measured(float_sam, dataset)[0], measured(packed_sam, dataset)[0]
    assert found.bits == "w8a8"
    assert found.mIoU is not None
    assert expected.mIoU is not None
    assert abs(found.mIoU - expected.mIoU) < 0.05


def test_patches_put_boxes_back_in_their_places(
    float_sam: Sam, scene_directory: Path, tmp_path: Path
) -> None:
    """Scenes set side by side on one sheet: each patch sees one scene, as if it were alone."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    sheet = Image.new("RGB", (512, 128))
    lines = []
    for column, name in enumerate(("000001", "000002")):
        left = 384 * column
        sheet.paste(Image.open(scene_directory / "images" / f"{name}.png"), (left, 0))
        for one in read_dota_labels(scene_directory / "labels" / f"{name}.txt"):
            corners = " ".join(f"{value:.3f}" for value in (one.polygon + np.array([left, 0])).ravel())
            lines.append(f"{corners} {one.category} 0")
    sheet.save(tmp_path / "images" / "sheet.png")
    (tmp_path / "labels" / "sheet.txt").write_text("\n".join(lines))
    whole = read_oriented(scene_directory / "labels", scene_directory / "images").first(2)
    expected, _ = measured(float_sam, whole)
    found, _ = measured(float_sam, read_oriented(tmp_path / "labels", tmp_path / "images"), Patching(128, 0))
    assert found.instances == expected.instances
    assert found.mIoU == pytest.approx(expected.mIoU, abs=1e-3)


def test_detections_are_scored_by_their_detector(
    float_sam: Sam, scene_directory: Path, tmp_path: Path
) -> None:
    """The true boxes, and one far too large of each class with a higher score: each costs precision."""
    document = json.loads((scene_directory / "instances.json").read_text())
    entries = [
        {key: one[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.5}
        for one in document["annotations"]
    ]
    path = tmp_path / "detections.json"
    path.write_text(json.dumps(entries))
    dataset = read_oriented(scene_directory / "instances.json", scene_directory / "images")
    clean, kept = evaluate_oriented(float_sam, dataset, oriented_prompts(dataset, path), str(path))
    assert clean.mIoU is None
    assert {one.score for one in kept} == {0.5}
    for one in document["annotations"]:
        entries.append({**entries[0], "image_id": one["image_id"], "category_id": one["category_id"]})
        entries[-1] |= {"bbox": [0, 0, 3, 3], "score": 0.9}
    path.write_text(json.dumps(entries))
    noisy, _ = evaluate_oriented(float_sam, dataset, oriented_prompts(dataset, path), str(path))
    assert noisy.AP50 < clean.AP50
    top, _ = evaluate_oriented(float_sam, dataset, oriented_prompts(dataset, path, score_threshold=0.95))
    assert top.detections == 0
    assert top.AP50 == 0


def test_masks_that_are_not_numbers_count_as_not_found(float_sam: Sam, scene_directory: Path) -> None:
    broken = copy.deepcopy(float_sam)
    broken.model.mask_decoder.upscale_conv2.bias.data[0] = torch.nan
    dataset = read_oriented(scene_directory / "labels", scene_directory / "images").first(2)
    result, detections = measured(broken, dataset)
    assert result.nan_count == result.instances > 0
    assert detections == []
    assert result.AP50 == 0
    assert result.mIoU == 0


def test_empty_masks_give_their_upright_box_back(float_sam: Sam, scene_directory: Path) -> None:
    silent = copy.deepcopy(float_sam)
    for network in silent.model.mask_decoder.output_hypernetworks_mlps:
        network.proj_out.weight.data.zero_()
        network.proj_out.bias.data.zero_()  # every logit is 0, and no pixel is above 0
    dataset = read_oriented(scene_directory / "labels", scene_directory / "images").first(2)
    result, _ = evaluate_oriented(silent, dataset, oriented_prompts(dataset, "boxes"))
    assert result.empty_masks == result.instances > 0
    upright_overlaps = []
    for group in dataset.objects.values():
        for one in group:
            (x0, y0), (x1, y1) = one.corners.min(0).clip(0), one.corners.max(0).clip(0, 128)
            box = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
            upright_overlaps.append(oriented_iou(box[None], one.corners[None])[0, 0])
    assert result.mIoU == pytest.approx(np.mean(upright_overlaps), abs=0.02)


def test_task1_files_can_be_read_back(float_sam: Sam, scene_directory: Path, tmp_path: Path) -> None:
    dataset = read_oriented(scene_directory / "labels", scene_directory / "images")
    _, detections = measured(float_sam, dataset)
    written = write_task1(tmp_path, dataset.listing, detections)
    assert {path.name for path in written} == {
        f"Task1_{name}.txt" for name in dataset.listing.categories.values()
    }
    rows = [line.split() for path in written for line in path.read_text().splitlines()]
    assert len(rows) == len(detections)
    stems = {image.path.stem for image in dataset.listing.images}
    for row in rows:
        assert len(row) == 10
        assert row[0] in stems
        assert 0 <= float(row[1]) <= 1
    corners = sorted(tuple(round(value, 1) for value in one.corners.ravel()) for one in detections)
    read = sorted(tuple(round(float(word), 1) for word in row[2:]) for row in rows)
    np.testing.assert_allclose(read, corners, atol=0.11)


def test_command(scene_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task1 = tmp_path / "task1"
    task1.mkdir()
    words = ["evaluate", "nano", "--task", "oriented", "--images", scene_directory / "images"]
    words += ["--annotations", scene_directory / "labels", "--task1-dir", task1]
    words += ["--show-dir", tmp_path / "show", "--limit", 2, "--json"]
    assert run([str(word) for word in words]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["images"] == 2
    assert 0 < result["AP50"] <= 1
    assert len(list(task1.iterdir())) > 1
    assert sorted(path.name for path in (tmp_path / "show").iterdir()) == ["000001.png", "000002.png"]


def shown(directory: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path).convert("RGB")) for path in sorted(directory.glob("*.png"))]


def test_the_reference_is_drawn_beside_the_model(
    packed_nano: Callable[[str], Path],
    scene_directory: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["evaluate", packed_nano("rtn-w4a8"), "--task", "oriented", "--limit", 3, "--json"]
    words += ["--images", scene_directory / "images", "--annotations", scene_directory / "labels"]
    drawn = []
    for extra in (["--reference", "nano"], []):
        assert run([str(word) for word in [*words, "--show-dir", tmp_path / "show", *extra]]) == 0
        drawn.append(shown(tmp_path / "show"))
    differ = []
    for pair, alone in zip(*drawn, strict=True):
        high, wide = alone.shape[:2]
        size = (wide - 3 * 8) // 2
        truth, theirs, ours = (pair[24:high, 8 + n * (size + 8) :][:, :size] for n in range(3))
        assert (truth == alone[24:high, 8:][:, :size]).all()
        assert (ours == alone[24:high, 16 + size :][:, :size]).all()
        assert (truth != ours).any()
        differ.append(bool((theirs != ours).any()))
    assert len(differ) == 3
    assert any(differ), "boxes of 4-bit weights are not the float ones"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--task", "rotated"], "expected instance, oriented, semantic"),
        (["--task", "oriented", "--labels", "noisy"], "--labels belongs to --task semantic"),
        (["--task", "oriented", "--prompts", "points"], "not points"),
        (["--task", "oriented", "--task1-dir", __file__], "this is a file; name a directory"),
        (["--task1-dir", "."], "--task1-dir belongs to --task oriented"),
    ],
)
def test_command_refuses_what_does_not_fit(
    scene_directory: Path, capsys: pytest.CaptureFixture[str], extra: list[str], message: str
) -> None:
    words = ["evaluate", "nano", "--images", scene_directory / "images"]
    words += ["--annotations", scene_directory / "instances.json", *extra]
    assert run([str(word) for word in words]) == 2
    assert message in capsys.readouterr().err
