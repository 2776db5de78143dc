"""The models that come with the package: what their cards promise; ``small`` answers every prompt."""

from __future__ import annotations

import hashlib
from importlib.resources import files

import numpy as np
import pytest
import torch
from transformers import SamModel

from saqsam import api
from saqsam.sam import Sam
from saqsam.scenes import make_scene
from saqsam.shipped.embedded import embedded_sam


@pytest.fixture(scope="module")
def small() -> Sam:
    return api.load("small")


@pytest.mark.parametrize(
    ("name", "card"),
    [("nano", "CARD.md"), ("small", "CARD-small.md"), ("nano-sam2", "CARD-nano-sam2.md")],
)
def test_a_card_speaks_of_the_weights_beside_it(name: str, card: str) -> None:
    assets = files("saqsam.shipped").joinpath("assets")
    weights = assets.joinpath(f"{name}.safetensors").read_bytes()
    text = assets.joinpath(card).read_text(encoding="utf-8")
    assert hashlib.sha256(weights).hexdigest() in text
    parameters = sum(p.numel() for p in embedded_sam(name).parameters())
    assert f"{parameters:,}" in text
    assert len(weights) < 12e6


def test_small_finds_objects_from_boxes_clicks_and_both(small: Sam) -> None:
    found: dict[str, list[float]] = {"boxes": [], "clicks": [], "both": []}
    for seed in range(4):
        scene = make_scene(np.random.default_rng([70, seed]), (128, 128))
        for number, box in enumerate(scene.boxes):
            truth = scene.mask(number)
            y, x = np.argwhere(truth)[truth.sum() // 2]
            prompts = {
                "boxes": {"boxes": [box]},
                "clicks": {"points": [[[x, y]]], "labels": [[1]]},
                "both": {"boxes": [box], "points": [[[x, y]]], "labels": [[1]]},
            }
            for kind, given in prompts.items():
                mask = np.asarray(small.segment(scene.image, **given).masks).reshape(truth.shape)
                found[kind].append((mask & truth).sum() / (mask | truth).sum())
    assert np.mean(found["boxes"]) > 0.7
    assert np.mean(found["clicks"]) > 0.6
    assert np.mean(found["both"]) > 0.7


def test_small_takes_a_mask_and_gives_three() -> None:
    model: SamModel = embedded_sam("small")
    scene = make_scene(np.random.default_rng([70, 1]), (128, 128))
    pixels = torch.from_numpy(scene.image.copy()).permute(2, 0, 1)[None] / 127.5 - 1
    box = torch.tensor(scene.boxes[:1], dtype=torch.float32)[None]
    first = model(pixel_values=pixels, input_boxes=box, multimask_output=False)
    again = model(
        pixel_values=pixels,
        input_boxes=box,
        input_masks=first.pred_masks[:, 0],
        multimask_output=True,
    )
    assert again.pred_masks.shape == (1, 1, 3, 64, 64)
    one, three = first.pred_masks[0, 0, 0] > 0, again.pred_masks[0, 0] > 0
    overlap = (one & three).sum((-1, -2)) / (one | three).sum((-1, -2))
    assert float(overlap.max()) > 0.7
