"""The photograph model's tools: grown from nano, samples from a COCO-format folder, runs that continue."""

from __future__ import annotations

import argparse
from pathlib import Path

import nano_cache
import numpy as np
import pytest
import torch
from evaluate_small import clipped, measure, zoomed
from nano_loss import AUXILIARY, auxiliary_loss
from photos_composites import decorate
from photos_data import HELD_OUT, load_photographs, view, whole
from photos_prefetch import Wanted, batch_rng, batches
from photos_samples import SMALLEST_AREA, Sources, draw_batch, load_sources
from small_config import grown
from train_small import Run, train
from transformers import SamModel

from saqsam import api
from saqsam.prompts.prompts import Prompts
from saqsam.scenes import make_scene, write_scenes
from saqsam.segment.predictor import predict


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures in COCO format and, beside them, cached scenes."""
    root = tmp_path_factory.mktemp("photographs")
    write_scenes(root, 5, 31, (150, 200))
    (root / "cache").mkdir()
    nano_cache.render_shard((str(root / "cache"), 5, 0, 4))
    return root


@pytest.fixture(scope="module")
def sources(folder: Path) -> Sources:
    return load_sources(folder, folder / "cache")


def test_the_grown_model_answers_as_nano_does(nano: SamModel) -> None:
    model = grown(nano, 1).eval().requires_grad_(False)
    scene = make_scene(np.random.default_rng(4), (128, 128))
    boxes = torch.tensor(scene.boxes, dtype=torch.float32)
    one, two = (predict(m, scene.image, Prompts(boxes, None, None, None)) for m in (nano, model))
    assert sum(p.numel() for p in model.parameters()) > 2 * sum(p.numel() for p in nano.parameters())
    assert (one.masks == two.masks).mean() > 0.999


def test_held_out_photographs_are_not_trained_on(folder: Path) -> None:
    kept, chosen = load_photographs(folder), load_photographs(folder, held_out=True)
    assert (len(kept), len(chosen)) == (4, 1)
    third = np.asarray(chosen[0].image)
    assert HELD_OUT == 3
    assert all(not np.array_equal(third, np.asarray(photo.image)) for photo in kept)


def test_a_whole_picture_is_letterboxed_and_its_masks_with_it(sources: Sources) -> None:
    photo = sources.photographs[0]
    found = view(photo, whole(photo), [0])
    assert found.size == (96, 128)
    assert not found.pixels[96:].any()
    assert not found.masks[0][96:].any()
    share = photo.objects[0].area / (photo.image.width * photo.image.height)
    assert found.masks[0].sum() / (96 * 128) == pytest.approx(share, rel=0.1)


def test_what_is_pasted_hides_what_lies_below(sources: Sources) -> None:
    photo = sources.photographs[1]
    for seed in range(10):
        found = view(photo, whole(photo), list(range(len(photo.objects))))
        before = len(found.masks)
        decorate(np.random.default_rng(seed), found, sources.photographs, sources.pictures)
        pasted = found.masks[before:]
        for i, mask in enumerate(pasted):
            assert not any((mask & other).any() for other in found.masks[:before] + pasted[:i])


def test_a_batch_depends_on_its_seed_alone_and_its_clicks_on_the_truth(sources: Sources) -> None:
    first, again = (draw_batch(np.random.default_rng([1, 2]), sources, 6, 4) for _ in range(2))
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(first, again, strict=True))
    assert (first.targets.sum((2, 3)) * 4 >= SMALLEST_AREA).all()
    x, y = first.clicks.astype(int).transpose(3, 0, 1, 2) // 2
    covered = np.take_along_axis(first.targets.reshape(6, 4, -1), y * 64 + x, 2)
    assert (covered[first.inside] > 0).all()
    assert (covered[~first.inside] < 1).all()
    assert first.inside[:, :, 0].all()
    assert not first.inside.all()


def test_pictures_with_unlabelled_objects_do_not_teach_what_background_is() -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(8, AUXILIARY).requires_grad_(False)
    tokens, labels = torch.randn(2, 256, 8), torch.zeros(2, 128, 128, dtype=torch.int64)
    nothing = torch.full((2, 256, 4), float("nan"))
    both = auxiliary_loss(head, tokens, labels, nothing, torch.tensor([True, True]))
    first = auxiliary_loss(head, tokens, labels, nothing, torch.tensor([True, False]))
    assert float(both) != float(first)
    assert float(auxiliary_loss(head, tokens, labels, nothing, torch.tensor([False, False]))) == 0
    alone = auxiliary_loss(head, tokens[:1], labels[:1], nothing[:1], torch.tensor([True]))
    assert float(first) == pytest.approx(float(alone))


def test_a_step_gets_its_batch_whenever_the_run_was_started(folder: Path, sources: Sources) -> None:
    wanted = Wanted(folder, folder / "cache", 7, 2, 4)
    here = next(batches(wanted, 3, 4, workers=0))
    there = draw_batch(batch_rng(7, 3), sources, 2, 4)
    beside = next(batches(wanted, 3, 4, workers=1))
    for other in (there, beside):
        assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(here, other, strict=True))


def options(folder: Path, out: Path, steps: int) -> argparse.Namespace:
    out.mkdir(exist_ok=True)
    return argparse.Namespace(
        photos=folder, scenes=folder / "cache", out=out, start=None, steps=steps, decay=1, seed=1, images=2,
        prompts=4, workers=0, threads=1, device="cpu", dtype="bfloat16", muon_lr=2e-3, adam_lr=1e-3,
    )  # fmt: skip


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(folder: Path, tmp_path: Path) -> None:
    train(options(folder, tmp_path / "whole", 2))
    run = Run(options(folder, tmp_path / "parts", 2))
    wanted = Wanted(folder, folder / "cache", 1, 2, 4)
    for sample in batches(wanted, 0, 1, 0):
        run.follow(sample)
    run.save()
    train(options(folder, tmp_path / "parts", 2))
    states = [torch.load(tmp_path / n / "last.pt", weights_only=True) for n in ("whole", "parts")]
    assert states[0]["step"] == states[1]["step"] == 2
    for key in ("model", "average"):
        for name, value in states[0][key].items():
            assert torch.equal(value, states[1][key][name]), name
    before = torch.load(tmp_path / "whole" / "stable.pt", weights_only=True)
    assert before["step"] == 1
    pixels = make_scene(np.random.default_rng(4), (128, 128)).image
    sam = api.load(tmp_path / "whole" / "average.safetensors")
    assert sam.segment(pixels, boxes=[[10, 10, 60, 60]]).masks.shape[-2:] == (128, 128)


def test_zoom_answers_within_its_crop_and_clip_within_the_box(nano: SamModel) -> None:
    scene = make_scene(np.random.default_rng(4), (150, 200))
    x0, y0, x1, y1 = (int(v) for v in scene.boxes[0])
    mask, score = zoomed(nano, scene.image, (x0, y0, x1, y1), 1.3)
    assert mask.shape == (150, 200)
    assert mask.any()
    assert 0 < score < 1.2
    reach = round(0.2 * max(x1 - x0, y1 - y0)) + 1
    outside = mask.copy()
    outside[max(0, y0 - reach) : y1 + reach, max(0, x0 - reach) : x1 + reach] = False
    assert not outside.any()
    inside = clipped(mask, (x0, y0, x1, y1))
    assert inside.sum() == mask[y0:y1, x0:x1].sum()
    masks = [scene.mask(i) for i in range(len(scene))]
    table = measure(nano, iter([(scene.image, masks, [""] * len(masks))]), 1.3)
    assert len(table["all"]["zoom"]) == len(masks)
    assert np.mean(table["all"]["box"]) > 0.5
