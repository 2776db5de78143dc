"""Everything mode as a whole, against a loop over single clicks, and its command."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask

from saqsam.cli.app import run
from saqsam.errors import UsageError
from saqsam.everything import EverythingOptions, segment_everything
from saqsam.families.framing import preprocess
from saqsam.sam import Sam
from saqsam.segment.predictor import embed

LOOSE = EverythingOptions(points_per_side=4, pred_iou_thresh=0.3, stability_score_thresh=0.4)
CROPPED = EverythingOptions(
    points_per_side=4,
    pred_iou_thresh=0.3,
    stability_score_thresh=0.4,
    crop_n_layers=1,
    crop_n_points_downscale_factor=2,
)


def iou(a: list[int], b: list[int]) -> float:
    across = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    down = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - across * down
    return across * down / union if union else 0.0


def suppressed(found: list[dict[str, Any]], key: str, threshold: float) -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = []
    for one in sorted(found, key=lambda entry: -entry[key]):
        if all(iou(one["box"], other["box"]) <= threshold for other in kept):
            kept.append(one)
    return kept


@torch.no_grad()
def by_hand(model: Any, pixels: Any, options: EverythingOptions) -> list[dict[str, Any]]:
    """One click at a time with ``SamModel`` itself; filters as the mask generator's description has them."""
    height, width = pixels.shape[:2]
    crops = [(0, 0, width, height)]
    if options.crop_n_layers:
        overlap = int(options.crop_overlap_ratio * min(height, width))
        w, h = -(-(overlap + width) // 2), -(-(overlap + height) // 2)
        for x in (0, w - overlap):
            for y in (0, h - overlap):
                crops.append((x, y, min(x + w, width), min(y + h, height)))
    everywhere = []
    for number, (x0, y0, x1, y1) in enumerate(crops):
        values, frame = preprocess(model, np.ascontiguousarray(pixels[y0:y1, x0:x1]))
        embedding = embed(model, values).main
        side = options.points_per_side // (options.crop_n_points_downscale_factor if number else 1)
        found = []
        for row in range(side):
            for column in range(side):
                click = [(column + 0.5) / side * (x1 - x0), (row + 0.5) / side * (y1 - y0)]
                point = frame.scale_points(torch.tensor([click], dtype=torch.float64))
                output = model(image_embeddings=embedding, input_points=point[None, None])
                for logits, score in zip(output.pred_masks[0, 0], output.iou_scores[0, 0], strict=True):
                    large = F.interpolate(
                        logits[None, None], (frame.size,) * 2, mode="bilinear", align_corners=False
                    )
                    large = large[..., : frame.resized[0], : frame.resized[1]]
                    large = F.interpolate(large, (y1 - y0, x1 - x0), mode="bilinear", align_corners=False)
                    plane = large[0, 0].numpy()
                    stability = (plane > 1).sum() / max(1, (plane > -1).sum())
                    if not score > options.pred_iou_thresh or stability < options.stability_score_thresh:
                        continue
                    mask = np.zeros((height, width), bool)
                    mask[y0:y1, x0:x1] = plane > 0
                    rows, columns = np.nonzero(mask)
                    box = [int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())]
                    cut = any(
                        abs(edge - crop) <= 20 and abs(edge - border) > 20
                        for edge, crop, border in zip(
                            box, (x0, y0, x1, y1), (0, 0, width, height), strict=True
                        )
                    )
                    if not cut:
                        found.append({"mask": mask, "box": box, "score": float(score)})
        for one in suppressed(found, "score", options.box_nms_thresh):
            everywhere.append({**one, "smallness": 1 / ((x1 - x0) * (y1 - y0))})
    return suppressed(everywhere, "smallness", options.crop_nms_thresh) if len(crops) > 1 else everywhere


@pytest.mark.parametrize("options", [LOOSE, CROPPED], ids=["whole", "crops"])
def test_masks_are_those_found_click_by_click(float_sam: Sam, pixels: Any, options: Any) -> None:
    found = float_sam.everything(pixels, options)
    expected = by_hand(float_sam.model, pixels, options)
    assert len(found) == len(expected) > 3
    for record, wanted in zip(found.records, expected, strict=True):
        assert record.predicted_iou == pytest.approx(wanted["score"], abs=1e-5)
        # A logit within rounding of 0 may fall on either side.
        assert np.count_nonzero(record.mask() != wanted["mask"]) <= 1


def test_a_packed_model_finds_much_the_same(float_sam: Sam, packed_sam: Sam, pixels: Any) -> None:
    expected, found = float_sam.everything(pixels, LOOSE), packed_sam.everything(pixels, LOOSE)
    best = [
        max((mask & other).sum() / (mask | other).sum() for other in found.masks) for mask in expected.masks
    ]
    assert packed_sam.bits == "w8a8"
    assert np.median(best) > 0.85


def test_the_same_image_gives_the_same_bytes(float_sam: Sam, pixels: Any) -> None:
    first, second = (json.dumps(float_sam.everything(pixels, CROPPED).to_coco()) for _ in range(2))
    assert first == second


def test_batches_change_speed_only(float_sam: Sam, pixels: Any) -> None:
    few = float_sam.everything(
        pixels, points_per_batch=3, points_per_side=4, pred_iou_thresh=0.3, stability_score_thresh=0.4
    )
    many = float_sam.everything(pixels, LOOSE)
    assert [one.point for one in few.records] == [one.point for one in many.records]
    assert np.count_nonzero(few.masks != many.masks) <= len(few)


def test_a_watched_model_is_decoded_the_plain_way_with_the_same_masks(float_sam: Sam, pixels: Any) -> None:
    calls = []
    watched = copy.deepcopy(float_sam.model)
    watched.mask_decoder.register_forward_hook(lambda module, given, output: calls.append(module))
    found, expected = segment_everything(watched, pixels, LOOSE), float_sam.everything(pixels, LOOSE)
    assert calls
    assert [one.point for one in found.records] == [one.point for one in expected.records]
    assert np.count_nonzero(found.masks != expected.masks) <= len(found)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside pycocotools
def test_records_agree_with_their_masks(float_sam: Sam, pixels: Any) -> None:
    found = float_sam.everything(pixels, CROPPED)
    for record, mask in zip(found.to_coco(), found.masks, strict=True):
        code = {**record["segmentation"], "counts": record["segmentation"]["counts"].encode()}
        assert (coco_mask.decode(code).astype(bool) == mask).all()
        assert record["area"] == mask.sum() == coco_mask.area(code)
        assert record["bbox"] == coco_mask.toBbox(code).tolist()
        left, top, width, height = record["crop_box"]
        (x, y) = record["point_coords"][0]
        assert left <= x <= left + width
        assert top <= y <= top + height
        assert record["predicted_iou"] > 0.3
        assert record["stability_score"] >= 0.4


def test_small_regions_go_when_asked(float_sam: Sam, pixels: Any) -> None:
    from scipy.ndimage import label

    cleaned = float_sam.everything(
        pixels, points_per_side=4, pred_iou_thresh=0.3, stability_score_thresh=0.4, min_mask_region_area=40
    )
    assert len(cleaned)
    for mask in cleaned.masks:
        for part in (mask, ~mask):
            numbers, count = label(part, np.ones((3, 3)))
            sizes = np.bincount(numbers.ravel(), minlength=count + 1)[1:]
            assert count <= 1 or sizes.min() >= 40


def test_own_points_and_progress(float_sam: Sam, pixels: Any) -> None:
    steps: list[tuple[int, int]] = []
    found = float_sam.everything(
        pixels,
        point_grids=[[[0.5, 0.5], [0.25, 0.75]]],
        pred_iou_thresh=0.0,
        stability_score_thresh=0.0,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert {one.point for one in found.records} <= {(60.0, 48.0), (30.0, 72.0)}
    assert steps[-1] == (2, 2)


def test_nothing_found_is_an_empty_result(float_sam: Sam, pixels: Any) -> None:
    found = float_sam.everything(pixels, points_per_side=2, pred_iou_thresh=1.0)
    assert len(found) == 0
    assert found.masks.shape == (0, *pixels.shape[:2])
    assert found.to_coco() == []


@pytest.mark.parametrize("shape", [(1, 1), (1, 200), (200, 1), (3, 2)])
def test_images_of_a_few_pixels(float_sam: Sam, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    found = float_sam.everything(
        image,
        points_per_side=2,
        crop_n_layers=2,
        pred_iou_thresh=0.0,
        stability_score_thresh=0.0,
        min_mask_region_area=2,
    )
    assert found.masks.shape[1:] == shape
    assert all(mask.any() for mask in found.masks)


def test_options_and_settings_exclude_each_other(float_sam: Sam, pixels: Any) -> None:
    with pytest.raises(UsageError, match="not both"):
        float_sam.everything(pixels, LOOSE, points_per_side=2)


def test_scores_that_are_not_numbers_are_counted_and_left_out(float_sam: Sam, pixels: Any) -> None:
    broken = copy.deepcopy(float_sam.model)
    broken.mask_decoder.iou_prediction_head.proj_out.bias[2] = torch.nan
    found = segment_everything(broken, pixels, LOOSE)
    assert found.nan_count == 16


def test_command_on_a_folder_goes_on_past_a_broken_image(
    scene_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("000001.png", "000002.png"):
        (folder / name).write_bytes((scene_directory / "images" / name).read_bytes())
    (folder / "000003.png").write_bytes(b"\x89PNG but not really")
    out, show = tmp_path / "all.json", tmp_path / "show"
    words = ["everything", "nano", folder, "--out", out, "--show-dir", show, "--points-per-side", 4]
    words += ["--pred-iou-thresh", 0.3, "--stability-score-thresh", 0.4]
    assert run([str(word) for word in words]) == 3
    assert "1 of 3 images could not be read" in capsys.readouterr().err
    document = json.loads(out.read_text())
    assert [image["id"] for image in document["images"]] == [1, 2]
    assert {mask["image_id"] for mask in document["annotations"]} == {1, 2}
    assert [mask["id"] for mask in document["annotations"]] == list(
        range(1, len(document["annotations"]) + 1)
    )
    assert sorted(path.name for path in show.iterdir()) == ["000001.png", "000002.png"]
    assert run([str(word) for word in [*words, "--force", "--on-error", "skip", "--json"]]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [entry["entry"] for entry in said["left_out"]] == ["000003.png"]
    assert sorted(path.name for path in show.iterdir()) == ["000001.png", "000002.png"]


def test_command_on_one_image(
    scene_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, overlay = tmp_path / "one.json", tmp_path / "one.png"
    image = scene_directory / "images" / "000001.png"
    words = [
        "everything",
        "nano",
        image,
        "--out",
        out,
        "--overlay",
        overlay,
        "--points-per-side",
        3,
        "--json",
    ]
    words += ["--pred-iou-thresh", 0.2, "--stability-score-thresh", 0.3]
    assert run([str(word) for word in words]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["images"] == 1
    assert summary["masks"] == len(json.loads(out.read_text())["annotations"])
    assert overlay.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("extra", "code", "message"),
    [
        (["--out", "x.txt"], 2, "written as .json"),
        (["--out", "x.json", "--points-per-side", "0"], 2, "points_per_side"),
        (["--out", "x.json", "--overlay", "x.jpg"], 2, "written as .png"),
        (["--out", "nowhere/x.json"], 2, "there is no directory nowhere"),
    ],
)
def test_command_refuses_before_it_works(
    scene_directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    extra: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["everything", "nano", str(scene_directory / "images" / "000001.png"), *extra]) == code
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
