"""Label maps, votes and figures against loops over pixels; the task as a whole on the embedded model."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from saqsam.cli.app import run
from saqsam.datasets.masks import encode_mask
from saqsam.errors import CheckpointError, ImageError, UsageError
from saqsam.everything import Everything, EverythingMask, EverythingOptions
from saqsam.sam import Sam
from saqsam.tasks.semantic import evaluate_semantic, starting_maps
from saqsam.tasks.semantic_iou import Confusion
from saqsam.tasks.semantic_maps import noisy_labels, read_label_map, read_semantic
from saqsam.tasks.semantic_model import load_semantic
from saqsam.tasks.semantic_vote import refined

LOOSE = EverythingOptions(
    points_per_side=8, pred_iou_thresh=0.5, stability_score_thresh=0.6, min_mask_region_area=8
)


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10_000), classes=st.integers(1, 6), ignore=st.booleans())
def test_figures_count_pixels(seed: int, classes: int, ignore: bool) -> None:
    rng = np.random.default_rng(seed)
    pairs = [(rng.integers(0, classes, (5, 6)), rng.integers(0, classes + 1, (5, 6))) for _ in range(2)]
    confusion = Confusion(ignore_zero=ignore)
    for truth, labels in pairs:
        confusion.add(truth, labels)
    pixels = [
        (int(t), int(p))
        for truth, labels in pairs
        for t, p in zip(truth.ravel(), labels.ravel(), strict=True)
        if not (ignore and t == 0)
    ]
    figures = confusion.figures()
    ious = []
    for number in range(1 if ignore else 0, classes + 1):
        both = sum(t == p == number for t, p in pixels)
        either = sum(number in (t, p) for t, p in pixels)
        if either:
            ious.append(both / either)
            assert figures.class_iou[number] == pytest.approx(both / either)
    assert figures.mIoU == pytest.approx(sum(ious) / len(ious) if ious else -1)
    right = sum(t == p for t, p in pixels)
    assert figures.pixel_accuracy == pytest.approx(right / len(pixels) if pixels else -1)


def record(mask: Any) -> EverythingMask:
    return EverythingMask(encode_mask(mask), 1.0, 1.0, (0.0, 0.0), (0, 0, 1, 1), (0, 0, 0, 0))


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(0, 4))
def test_votes(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, (6, 7))
    masks = [rng.random((6, 7)) < rng.random() for _ in range(count)]
    found = refined(labels, Everything([record(mask) for mask in masks], (6, 7)))
    for y in range(6):
        for x in range(7):
            covering = [mask for mask in masks if mask[y, x]]
            if not covering:
                assert found[y, x] == labels[y, x]
                continue
            smallest = min(mask.sum() for mask in covering)
            last = [mask for mask in covering if mask.sum() == smallest][-1]
            votes = [int(label) for label in labels[last]]
            assert found[y, x] == max(sorted(set(votes)), key=votes.count)


def test_noise_is_repeatable_and_does_harm() -> None:
    truth = np.zeros((50, 60), np.int64)
    truth[10:30, 10:40], truth[25:45, 35:55] = 3, 7
    one, again, other = (noisy_labels(truth, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (one == again).all()
    assert (one != other).any()
    assert one.shape == truth.shape
    assert set(np.unique(one)) <= {0, 3, 7}
    assert 0.6 < (one == truth).mean() < 0.97


def test_label_maps_of_every_honest_kind(tmp_path: Path) -> None:
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(labels).save(tmp_path / "grey.png")
    indexed = Image.fromarray(labels).convert("P")
    indexed.putdata(labels.ravel().tolist())
    indexed.putpalette([value % 256 for value in range(768)])
    indexed.save(tmp_path / "indexed.png")
    Image.fromarray(labels.astype(np.uint16) + 300).save(tmp_path / "wide.png")
    assert (read_label_map(tmp_path / "grey.png", (3, 4)) == labels).all()
    assert (read_label_map(tmp_path / "indexed.png", (3, 4)) == labels).all()
    assert (read_label_map(tmp_path / "wide.png", (3, 4)) == labels.astype(int) + 300).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: Image.new("RGB", (4, 3)).save(path), "RGB picture"),
        (lambda path: Image.new("L", (5, 3)).save(path), "5 x 3 pixels, its image 4 x 3"),
        (lambda path: Image.fromarray(np.full((3, 4), 60_000, np.uint16)).save(path), "60000"),
        (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\nno"), "no readable PNG"),
        (lambda path: path.write_bytes(b""), "no readable PNG"),
        (lambda path: Image.new("L", (4, 3)).save(path, format="JPEG"), "no readable PNG"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path: Path, make: Any, words: str) -> None:
    path = tmp_path / "map.png"
    make(path)
    with pytest.raises(ImageError, match=words) as caught:
        read_label_map(path, (3, 4))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("packed", [False, True], ids=["float", "packed"])
def test_masks_make_noisy_maps_better(
    float_sam: Sam, packed_sam: Sam, scene_directory: Path, packed: bool
) -> None:
    dataset = read_semantic(scene_directory / "semantic", scene_directory / "images")
    sam = packed_sam if packed else float_sam
    result = evaluate_semantic(sam, dataset, starting_maps("noisy", dataset), "noisy", LOOSE)
    assert result.masks > 0
    assert result.mIoU > result.start_mIoU + 0.02
    assert result.pixel_accuracy > result.start_pixel_accuracy
    assert 0 not in result.classes
    again = evaluate_semantic(sam, dataset, starting_maps("noisy", dataset), "noisy", LOOSE)
    assert {**again.to_dict(), "seconds": 0} == {**result.to_dict(), "seconds": 0}


def test_the_truth_itself_scores_one_before_refinement(float_sam: Sam, scene_directory: Path) -> None:
    dataset = read_semantic(scene_directory / "semantic", scene_directory / "images").first(2)
    start = starting_maps(str(scene_directory / "semantic"), dataset)
    result = evaluate_semantic(float_sam, dataset, start, "truth", LOOSE, ignore_zero=False)
    assert result.start_mIoU == result.start_pixel_accuracy == 1.0
    assert 0 in result.classes


def maps_of(folder: Path, source: Path, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """A folder of changed copies of label maps."""
    folder.mkdir()
    for path in source.iterdir():
        labels = np.asarray(Image.open(path)).astype(np.int64)
        Image.fromarray(change(labels).astype(np.uint8)).save(folder / path.name)
    return folder


def test_void_pixels_are_left_out_when_asked_and_noted_when_not(
    float_sam: Sam, scene_directory: Path, tmp_path: Path
) -> None:
    labels = scene_directory / "semantic"

    def with_void(truth: np.ndarray) -> np.ndarray:
        truth = truth.copy()
        truth[:20] = 255
        return truth

    truth = maps_of(tmp_path / "truth", labels, with_void)
    dataset = read_semantic(truth, scene_directory / "images").first(2)
    start = starting_maps(str(labels), dataset)
    counted = evaluate_semantic(float_sam, dataset, start, "labels", LOOSE)
    assert counted.start_mIoU < 0.9
    assert "--ignore-label 255" in counted.notes[0]
    assert 255 in counted.classes
    ignored = evaluate_semantic(float_sam, dataset, start, "labels", LOOSE, ignore=[255])
    assert ignored.start_mIoU == 1.0
    assert ignored.notes == ()
    assert 255 not in ignored.classes


def test_maps_that_count_from_zero(
    float_sam: Sam, scene_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    low = maps_of(tmp_path / "low", scene_directory / "semantic", lambda truth: np.maximum(truth - 1, 0))
    words = ["evaluate", "nano", "--task", "semantic", "--images", scene_directory / "images"]
    words += ["--annotations", scene_directory / "semantic", "--labels", low, "--limit", 3]
    words += ["--everything", "points_per_side=4", "--everything", "crop_n_layers=0"]
    assert run([str(word) for word in (*words, "--json")]) == 0
    captured = capsys.readouterr()
    shifted = json.loads(captured.out)
    assert shifted["start_mIoU"] == 0.0
    assert any(
        "labels look one too low" in note and "--reduce-zero-label" in note for note in shifted["notes"]
    )
    assert "note: labels look one too low" in captured.err
    assert run([str(word) for word in (*words, "--reduce-zero-label", "--ignore-label", 255)]) == 0
    captured = capsys.readouterr()
    assert "note" not in captured.out + captured.err
    assert "pixel accuracy │        │  100.0 " in captured.out.replace("|", "│")


def test_missing_label_maps_are_named(scene_directory: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"4 images have no label map there \(000001\.png"):
        read_semantic(tmp_path, scene_directory / "images")


@pytest.fixture(scope="module")
def segformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained SegFormer of five classes, saved as such models are."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation
    from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

    directory = tmp_path_factory.mktemp("segformer")
    config = SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 16],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=16,
        num_labels=5,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        SegformerForSemanticSegmentation(config).save_pretrained(directory)
    SegformerImageProcessorPil(size={"height": 64, "width": 64}, do_reduce_labels=True).save_pretrained(
        directory
    )
    return directory


def test_a_model_of_transformers_gives_its_own_answer(segformer: Path, scene_directory: Path) -> None:
    pixels = np.asarray(Image.open(scene_directory / "images" / "000003.png"))
    model = load_semantic(f"hf:{segformer}")
    found = model.label_map(pixels)
    inputs = model.processor(images=[pixels], return_tensors="pt")
    with torch.no_grad():
        output = model.model(**inputs)
    expected = model.processor.post_process_semantic_segmentation(output, target_sizes=[pixels.shape[:2]])[0]
    assert found.shape == pixels.shape[:2]
    assert (found == expected.numpy() + 1).all(), "label 0 is kept for none, as the processor says"


def test_directories_that_hold_no_segmenter_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(CheckpointError, match="no semantic segmenter could be opened"):
        load_semantic(f"hf:{tmp_path}")


def test_command(
    segformer: Path, scene_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "nano", "--task", "semantic", "--images", scene_directory / "images"]
    words += ["--annotations", scene_directory / "semantic", "--labels", f"hf:{segformer}", "--limit", 2]
    words += ["--everything", "points_per_side=4", "--everything", "crop_n_layers=0"]
    words += ["--show-dir", tmp_path / "show", "--json"]
    assert run([str(word) for word in words]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["images"] == 2
    assert 0 <= result["mIoU"] <= 1
    assert sorted(path.name for path in (tmp_path / "show").iterdir()) == ["000001.png", "000002.png"]


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        (["--preset", "fast"], {"points_per_side": 32}),
        (["--preset", "fast", "--everything", "points_per_side=5"], {"points_per_side": 5}),
        (
            ["--preset", "paper", "--everything", "points_per_side=6"],
            {"points_per_side": 6, "crop_n_layers": 1},
        ),
        (["--everything", "points_per_side=6"], {"points_per_side": 6, "crop_n_layers": 1}),
    ],
)
def test_presets(
    float_sam: Sam,
    scene_directory: Path,
    capsys: pytest.CaptureFixture[str],
    extra: list[str],
    expected: dict[str, int],
) -> None:
    loose = {"pred_iou_thresh": 0.6, "stability_score_thresh": 0.7, "min_mask_region_area": 10}
    words = ["evaluate", "nano", "--task", "semantic", "--images", scene_directory / "images", "--limit", 1]
    words += ["--annotations", scene_directory / "semantic", "--labels", "noisy", "--json", *extra]
    words += [word for name, value in loose.items() for word in ("--everything", f"{name}={value}")]
    assert run([str(word) for word in words]) == 0
    found = json.loads(capsys.readouterr().out)
    dataset = read_semantic(scene_directory / "semantic", scene_directory / "images").first(1)
    options = EverythingOptions(crop_n_points_downscale_factor=2, **{**loose, **expected})
    result = evaluate_semantic(float_sam, dataset, starting_maps("noisy", dataset), "noisy", options)
    assert found["masks"] == result.masks > 0
    assert found["mIoU"] == pytest.approx(result.mIoU)


def test_the_reference_is_drawn_beside_the_model(
    float_sam: Sam, scene_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "nano", "--task", "semantic", "--images", scene_directory / "images"]
    words += ["--annotations", scene_directory / "semantic", "--labels", "noisy", "--limit", 1]
    words += ["--everything", "points_per_side=8", "--everything", "crop_n_layers=0"]
    words += ["--everything", "pred_iou_thresh=0", "--everything", "stability_score_thresh=0"]
    words += ["--show-dir", tmp_path, "--reference", "nano", "--json"]
    assert run([str(word) for word in words]) == 0
    with Image.open(next(tmp_path.iterdir())) as picture:
        panels = np.asarray(picture.convert("RGB"))[24:]
    size = (panels.shape[1] - 5 * 8) // 4
    assert size >= 384, "small pictures are enlarged"
    labels, theirs, ours, truth = (panels[:size, 8 + place * (size + 8) :][:, :size] for place in range(4))
    assert (theirs == ours).all(), "the reference is the model itself"
    assert (ours != labels).any()
    assert (ours != truth).any()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ([], "needs --labels"),
        (["--labels", "nowhere"], "no such directory"),
        (["--labels", "noisy", "--everything", "points_per_side"], "expected NAME=VALUE"),
        (["--labels", "noisy", "--everything", "points_per_side=many"], "is not a number"),
        (["--labels", "noisy", "--everything", "points=4"], "no option 'points'"),
        (["--labels", "noisy", "--preset", "quick"], "--preset quick: expected paper or fast"),
        (
            ["--labels", "noisy", "--preset", "fast", "--task", "instance"],
            "--labels belongs to --task semantic",
        ),
        (
            ["--preset", "fast", "--task", "oriented"],
            "--preset belongs to --task semantic, not to --task orie",
        ),
        (["--labels", "noisy", "--reduce-zero-label"], "noisy maps are made from the truth"),
        (["--labels", "noisy", "--reduce-zero-label", "--count-zero"], "give one"),
        (["--labels", "noisy", "--ignore-label", "-1"], "--ignore-label -1: labels are numbers from 0"),
        (["--ignore-label", "255", "--task", "oriented"], "--ignore-label belongs to --task semantic"),
        (["--labels", "noisy", "--reference", "nano"], "--reference belongs to --task instance"),
    ],
)
def test_command_refuses_what_does_not_fit(
    scene_directory: Path, capsys: pytest.CaptureFixture[str], extra: list[str], message: str
) -> None:
    words = ["evaluate", "nano", "--task", "semantic", "--images", scene_directory / "images"]
    words += ["--annotations", scene_directory / "semantic", *extra]
    assert run([str(word) for word in words]) == 2
    assert message in capsys.readouterr().err


def test_scores_that_are_not_numbers_void_the_figures(float_sam: Sam, scene_directory: Path) -> None:
    broken = copy.deepcopy(float_sam)
    broken.model.mask_decoder.iou_prediction_head.proj_out.bias.data[:] = torch.nan
    dataset = read_semantic(scene_directory / "semantic", scene_directory / "images").first(1)
    result = evaluate_semantic(broken, dataset, starting_maps("noisy", dataset), "noisy", LOOSE)
    assert result.nan_count == 3 * 64
    assert result.masks == 0
    assert result.mIoU == result.start_mIoU
