"""What the verbs print: exactly one JSON object with ``--json``, tables without, progress never on stdout."""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from saqsam.sam import Sam
from saqsam.shipped.embedded import embedded_sam

if TYPE_CHECKING:
    from tests.cli.conftest import Ground, Saqsam


def test_evaluate_json(saqsam: Saqsam, ground: Ground) -> None:
    words = ("evaluate", ground.packed, "--images", ground.images, "--annotations", ground.annotations)
    shown = saqsam(*words, "--reference", "nano", "--json")
    assert (shown.code, shown.err) == (0, "")
    result = shown.result
    assert result["model"] == str(ground.packed)
    assert result["bits"] == "w4a4"
    assert result["prompts"] == "boxes"
    assert result["images"] == 3
    objects = json.loads(ground.annotations.read_text())["annotations"]
    assert result["instances"] == len(objects)
    for key in ("AP", "AP50", "AP75", "mIoU", "agreement"):
        assert 0 <= result[key] <= 1
    assert result["AP"] <= result["AP50"]
    assert result["nan_count"] == 0
    assert result["seconds"] > 0


def test_evaluate_of_a_model_against_itself_agrees_wholly(saqsam: Saqsam, ground: Ground) -> None:
    words = ("evaluate", "nano", "--images", ground.images, "--annotations", ground.annotations)
    result = saqsam(*words, "--reference", "nano", "--limit", "1", "--json").result
    assert (result["agreement"], result["images"], result["bits"]) == (1.0, 1, "float")


def test_top_k_and_score_threshold_choose_detections(saqsam: Saqsam, ground: Ground) -> None:
    words = ("evaluate", "nano", "--images", ground.images, "--annotations", ground.annotations)
    scores: dict[int, list[float]] = {}
    for one in json.loads(ground.detections.read_text()):
        scores.setdefault(one["image_id"], []).append(one["score"])
    threshold = 0.875
    above = sum(score >= threshold for each in scores.values() for score in each)
    assert 0 < above < sum(map(len, scores.values()))
    asked = (*words, "--prompts", ground.detections, "--json")
    assert saqsam(*asked).result["instances"] == sum(map(len, scores.values()))
    assert saqsam(*asked, "--top-k", "1").result["instances"] == len(scores)
    assert saqsam(*asked, "--score-threshold", str(threshold)).result["instances"] == above


def test_compare_gives_what_evaluate_gives(saqsam: Saqsam, ground: Ground, tmp_path: Path) -> None:
    where = ("--images", ground.images, "--annotations", ground.annotations, "--json")
    out = ("--out", tmp_path / "pictures", "--pictures", "2")
    shown = saqsam("compare", "nano", ground.packed, *where, *out)
    assert shown.code == 0
    alone = saqsam("evaluate", ground.packed, *where, "--reference", "nano").result
    first, second = shown.result["results"]
    for row in (first, second, alone):
        row.pop("seconds")
    assert second == alone
    assert (shown.result["reference"], first["agreement"]) == ("nano", 1.0)
    assert len(shown.result["pictures"]) == 2
    for path in shown.result["pictures"]:
        width, height = size_of(path)
        assert width > height  # two panels side by side


def test_inspect_json_lists_every_site_and_every_float_part(saqsam: Saqsam, ground: Ground) -> None:
    result = saqsam("inspect", ground.packed, "--json").result
    assert result["recipe"]["name"] == "rtn"
    assert result["file_bytes"] == ground.packed.stat().st_size
    model = embedded_sam("nano")
    assert result["float_bytes"] == 4 * sum(parameter.numel() for parameter in model.parameters())
    parameters = dict(model.named_parameters())
    weights = set()
    for site in result["sites"]:
        assert site["bits"] == 4
        scales = site["scale"] if site["granularity"] == "per-channel" else [site["scale"]]
        zeros = site["zero_point"] if site["granularity"] == "per-channel" else [site["zero_point"]]
        assert all(scale > 0 for scale in scales)
        assert all(0 <= zero <= 15 for zero in zeros)
        assert site["min"] <= 0 <= site["max"]
        low = min(-zero * scale for zero, scale in zip(zeros, scales, strict=True))
        assert site["min"] == pytest.approx(low)
        if site["role"] == "weight":
            weights.add(f"{site['path']}.weight")
            assert len(scales) == parameters[f"{site['path']}.weight"].shape[0]
    # Each parameter is either a quantized weight or inside exactly one part that stays float.
    kept = [part["path"] for part in result["kept_float"]]
    for name in parameters.keys() - weights:
        assert sum(name == path or name.startswith(f"{path}.") for path in kept) == 1, name
    half = 2 * sum(parameters[name].numel() for name in parameters.keys() - weights)
    assert sum(part["bytes"] for part in result["kept_float"]) == half
    assert all(part["reason"] for part in result["kept_float"])
    steps = [step["path"] for step in result["float_steps"]]
    assert any("softmax" in step for step in steps)
    assert all(step["reason"] for step in result["float_steps"])
    shown = saqsam("inspect", ground.packed).out
    assert all(step in shown for step in steps)


def test_inspect_of_a_float_model_says_so(saqsam: Saqsam) -> None:
    result = saqsam("inspect", "nano", "--json").result
    assert (result["bits"], result["recipe"], result["sites"]) == ("float", None, [])
    shown = saqsam("inspect", "nano")
    assert shown.code == 0
    assert "nano: float" in shown.out


def test_inspect_is_short_unless_asked_for_sites(saqsam: Saqsam, ground: Ground) -> None:
    short, long = (saqsam("inspect", ground.packed, *more).out for more in ((), ("--sites",)))
    assert len(short.splitlines()) < 40
    assert "vision_encoder.layers.0.attn.qkv.bias" not in short
    assert "vision_encoder.layers.0.attn.qkv.bias" in long
    counts = [int(number) for number in re.findall(r"│ +4 │ +(\d+) │", short)]
    assert sum(counts) == len(saqsam("inspect", ground.packed, "--json").result["sites"])


def test_verify_says_what_it_checked(saqsam: Saqsam, ground: Ground) -> None:
    result = saqsam("verify", ground.packed, "--json").result
    assert (result["ok"], result["failed"]) == (True, [])
    assert len(result["checks"]) >= 6
    assert all(check["ok"] and check["detail"] for check in result["checks"])
    assert "every check passed" in saqsam("verify", ground.packed).out


@pytest.mark.parametrize("place", [0.3, 0.6, 0.9])
def test_verify_finds_one_flipped_bit(saqsam: Saqsam, ground: Ground, tmp_path: Path, place: float) -> None:
    content = bytearray(ground.packed.read_bytes())
    content[int(place * len(content))] ^= 4
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(content)
    shown = saqsam("verify", damaged, "--json")
    assert shown.code == 3
    assert shown.result["ok"] is False
    assert [check["ok"] for check in shown.result["failed"]] == [False]
    assert str(damaged) in shown.result["failed"][0]["detail"]
    assert len(shown.err.splitlines()) == 1
    for words in (
        ("verify", damaged),
        ("inspect", damaged),
        ("segment", damaged, ground.images / "000001.png"),
    ):
        other = saqsam(*words, *(("--box", "1,2,30,40") if words[0] == "segment" else ()))
        assert (other.code, other.out) == (3, "")
        assert str(damaged) in other.err


def test_a_flipped_bit_of_a_weight_is_found_by_name(saqsam: Saqsam, ground: Ground, tmp_path: Path) -> None:
    content = bytearray(ground.packed.read_bytes())
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    start = 8 + int.from_bytes(content[:8], "little")
    begin, end = header["manifest"]["data_offsets"]
    name = json.loads(zlib.decompress(content[start + begin : start + end]))["weights"][0][0]
    content[start + header["codes"]["data_offsets"][0]] ^= 1
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(content)
    shown = saqsam("verify", damaged)
    assert shown.code == 3
    assert f"{name}: its SHA-256 disagrees" in shown.err


def test_quantize_json_and_text(saqsam: Saqsam, ground: Ground, tmp_path: Path) -> None:
    out = tmp_path / "new.safetensors"
    shown = saqsam(*ground.quantize("nano", out), "--json")
    assert shown.code == 0
    assert "calibrating on 3 of 3 pictures" in shown.err
    result = shown.result
    assert result["file_bytes"] == out.stat().st_size
    assert (result["recipe"], result["bits"], result["out"]) == ("rtn", "w4a4", str(out))
    assert result["seconds"] > 0
    recipe = saqsam("recipe", "show", "rtn-w4a4", "--json").result
    assert recipe["recipe_hash"] == result["recipe_hash"]
    again = saqsam(*ground.quantize("nano", out), "--force")
    assert again.code == 0
    assert "audit passed" in again.out


def test_a_shown_recipe_is_a_recipe(saqsam: Saqsam, tmp_path: Path) -> None:
    shown = saqsam("recipe", "show", "saq-sam-star", "--bits", "w6a6", "--set", "clip.focus_threshold=0.7")
    file = tmp_path / "mine.yaml"
    file.write_text(shown.out, encoding="utf-8")
    mine = saqsam("recipe", "show", file, "--json").result["recipe"]
    assert mine["clip"]["focus_threshold"] == 0.7
    assert saqsam("recipe", "show", file).out == shown.out


def test_recipes_listed_can_be_shown(saqsam: Saqsam) -> None:
    listed = saqsam("recipe", "list", "--json").result["recipes"]
    assert "saq-sam-star" in [entry["name"] for entry in listed]
    shown = saqsam("recipe", "list").out
    for entry in listed:
        assert saqsam("recipe", "show", entry["name"]).code == 0
        assert entry["name"] in shown


def test_segment_writes_the_masks_it_counts(saqsam: Saqsam, ground: Ground, tmp_path: Path) -> None:
    image = ground.images / "000001.png"
    boxes = ("--box", "10,10,80,90", "--box", "40,40,120,120")
    outputs = ("--out", tmp_path / "mask.png", "--overlay", tmp_path / "over.jpg")
    shown = saqsam("segment", "nano", image, *boxes, *outputs, "--json")
    assert (shown.code, shown.err) == (0, "")
    expected = Sam(embedded_sam("nano"), "nano").segment(image, boxes=[[10, 10, 80, 90], [40, 40, 120, 120]])
    assert [one["file"] for one in shown.result["masks"]] == [
        str(tmp_path / "mask-1.png"),
        str(tmp_path / "mask-2.png"),
    ]
    for one, mask, score in zip(shown.result["masks"], expected.masks, expected.iou_scores, strict=True):
        with Image.open(one["file"]) as opened:
            written = np.asarray(opened)
        assert np.array_equal(written == 255, mask)
        assert set(np.unique(written)) <= {0, 255}
        assert one["area"] == mask.sum()
        assert one["iou_score"] == pytest.approx(float(score), abs=1e-5)
    width, height = size_of(tmp_path / "over.jpg")
    assert (width / height, width % size_of(image)[0]) == (1, 0)
    assert saqsam("segment", "nano", image, *boxes, *outputs).code == 2
    assert saqsam("segment", "nano", image, *boxes, *outputs, "--force").code == 0


def test_segment_says_that_a_box_was_clipped(saqsam: Saqsam, ground: Ground) -> None:
    words = ("segment", "nano", ground.images / "000001.png", "--box=-5,-5,60,60")
    assert saqsam(*words, "--json").result["clipped_boxes"] == 1
    assert "clipped" in saqsam(*words).out


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # pycocotools with NumPy 2
def test_segment_folder_gives_coco_results(saqsam: Saqsam, ground: Ground, tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    words = ("segment", "nano", ground.images, "--detections", ground.detections)
    shown = saqsam(*words, "--out", out, "--json")
    assert (shown.code, shown.err) == (0, "")
    detections = json.loads(ground.detections.read_text())
    results = json.loads(out.read_text())
    assert shown.result["masks"] == len(results) == len(detections)
    assert shown.result["images"] == 3
    sam = Sam(embedded_sam("nano"), "nano")
    for found in results:
        asked = next(
            one
            for one in sorted(detections, key=lambda one: -one["score"])
            if all(one[key] == found[key] for key in ("image_id", "category_id"))
            and not one.pop("seen", None)
        )
        asked["seen"] = True
        x, y, width, height = asked["bbox"]
        image = ground.images / f"{asked['image_id']:06}.png"
        alone = sam.segment(image, boxes=[[x, y, x + width, y + height]])
        assert found["score"] == pytest.approx(asked["score"] * float(alone.iou_scores[0]), abs=1e-5)
        mask = coco_mask.decode(found["segmentation"]).astype(bool)
        assert (mask != alone.masks[0]).mean() < 0.001
    again = tmp_path / "with-annotations.json"
    assert saqsam(*words, "--annotations", ground.annotations, "--out", again).code == 0
    assert again.read_bytes() == out.read_bytes()
    document = json.loads(ground.annotations.read_text())
    del document["annotations"]  # as in COCO's image_info files of its test sets
    (tmp_path / "image_info.json").write_text(json.dumps(document))
    assert saqsam(*words, "--annotations", tmp_path / "image_info.json", "--out", again, "--force").code == 0
    assert again.read_bytes() == out.read_bytes()


def test_segment_folder_goes_on_past_bad_images(
    saqsam: Saqsam, ground: Ground, folder: Path, tmp_path: Path
) -> None:
    (folder / "000002.png").write_bytes((folder / "000002.png").read_bytes()[:200])
    (folder / "000009.png").write_text("<html>404</html>")
    out = tmp_path / "results.json"
    words = ("segment", "nano", folder, "--detections", ground.detections, "--out", out)
    shown = saqsam(*words, "--json")
    assert shown.code == 3
    assert {Path(one["file"]).name for one in shown.result["unreadable"]} == {"000002.png", "000009.png"}
    assert "2 of 4 images could not be read" in shown.err
    assert "000002.png" in shown.err
    assert len(shown.err.splitlines()) == 1
    wanted = [one["image_id"] for one in json.loads(ground.detections.read_text()) if one["image_id"] != 2]
    assert [one["image_id"] for one in json.loads(out.read_text())] == wanted
    listed = saqsam(*words, "--annotations", ground.annotations, "--force")
    assert listed.code == 3
    assert "1 of 3 images" in listed.err
    assert [one["image_id"] for one in json.loads(out.read_text())] == wanted


def test_segment_folder_without_any_good_image_writes_nothing(
    saqsam: Saqsam, ground: Ground, folder: Path, tmp_path: Path
) -> None:
    for path in folder.iterdir():
        path.write_bytes(b"")
    out = tmp_path / "results.json"
    shown = saqsam("segment", "nano", folder, "--detections", ground.detections, "--out", out)
    assert (shown.code, shown.out) == (3, "")
    assert "no image could be read" in shown.err
    assert not out.exists()


def test_detections_of_an_image_that_is_not_there_are_refused(
    saqsam: Saqsam, ground: Ground, folder: Path, tmp_path: Path
) -> None:
    (folder / "000003.png").unlink()
    out = tmp_path / "results.json"
    shown = saqsam("segment", "nano", folder, "--detections", ground.detections, "--out", out)
    assert shown.code == 3
    assert "image_id 3 is not the id of any image of images" in shown.err
    assert not out.exists()


def size_of(path: str | Path) -> tuple[int, int]:
    """Width and height of an image file."""
    with Image.open(path) as opened:
        return opened.size


def test_a_site_that_never_varies_is_counted_and_stays_finite(
    saqsam: Saqsam, ground: Ground, tmp_path: Path
) -> None:
    model = embedded_sam("nano")
    silent = model.mask_decoder.transformer.layers[0].mlp.lin1
    silent.weight.zero_()
    silent.bias.fill_(-1.0)  # ReLU lets nothing through
    model.save_pretrained(tmp_path / "silent")
    out = tmp_path / "silent.safetensors"
    words = ("quantize", tmp_path / "silent", "--images", ground.images, "--set", "calibration.images=1")
    words = (*words, "--out", out)
    result = saqsam(*words, "--recipe", "mse-w4a4", "--json").result
    site = "mask_decoder.transformer.layers.0.mlp.lin2:input"
    assert site in result["constant_sites"]
    measured = ("evaluate", out, "--images", ground.images, "--annotations", ground.annotations, "--json")
    assert saqsam(*measured).result["nan_count"] == 0
    shown = saqsam(*words, "--recipe", "rtn-w4a4", "--force")
    assert f"warning: {len(result['constant_sites'])} sites held one single value" in shown.out
