"""The embedded model's training code computes what ``SamModel`` computes, and the same thing every time."""

from __future__ import annotations

from pathlib import Path

import nano_cache
import nano_data
import numpy as np
import pytest
import torch
from nano_config import decoder_attentions, initialise, nano_config, zero_dead_rows
from nano_forward import box_tokens, click_tokens, decode, encode
from nano_loss import AUXILIARY, auxiliary_loss, prompt_loss
from nano_muon import orthogonalised
from transformers import SamModel


@pytest.fixture(scope="module")
def model() -> SamModel:
    torch.manual_seed(3)
    model = SamModel._from_config(nano_config(64, 4, 64), attn_implementation="eager")
    initialise(model)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> nano_data.SceneCache:
    directory = tmp_path_factory.mktemp("cache")
    nano_cache.render_shard((str(directory), 5, 0, 6))
    return nano_data.SceneCache(directory)


def test_the_training_decoder_equals_sam_on_boxes_and_clicks(model: SamModel) -> None:
    torch.manual_seed(0)
    pixels = torch.randn(2, 3, 128, 128)
    boxes = torch.tensor([[10.0, 12, 60, 70], [5, 5, 100, 90], [40, 30, 90, 120]]).expand(2, 3, 4)
    clicks = boxes[:, :, None, :2] + 9
    image = encode(model, pixels)
    for sparse, prompts in (
        (box_tokens(model, boxes), {"input_boxes": boxes}),
        (
            click_tokens(model, clicks),
            {"input_points": clicks, "input_labels": torch.ones(2, 3, 1, dtype=torch.int64)},
        ),
    ):
        logits, iou = decode(model, image, sparse)
        for multimask, rows in ((False, slice(0, 1)), (True, slice(1, 4))):
            expected = model(pixel_values=pixels, multimask_output=multimask, **prompts)
            assert torch.allclose(logits[:, :, rows], expected.pred_masks, atol=2e-4)
            assert torch.allclose(iou[:, :, rows], expected.iou_scores, atol=2e-4)


def test_every_head_keeps_one_query_or_key_channel_without_effect(model: SamModel) -> None:
    zero_dead_rows(model)
    attentions = dict(decoder_attentions(model))
    assert len(attentions) == 7
    for attention in attentions.values():
        size = attention.internal_dim // attention.num_attention_heads
        for head in range(attention.num_attention_heads):
            dead = attention.k_proj if head % 2 == 0 else attention.q_proj
            row = head * size + head % 2
            assert not dead.weight[row].any()
            assert not dead.bias[row].any()


def test_a_batch_depends_on_its_seed_alone_and_its_prompts_lie_on_their_objects(
    cache: nano_data.SceneCache,
) -> None:
    first, again = (nano_data.make_batch(np.random.default_rng([1, 2]), cache, 4, 6) for _ in range(2))
    other = nano_data.make_batch(np.random.default_rng([1, 3]), cache, 4, 6)
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.pixels, other.pixels)
    for image in range(4):
        for prompt in range(6):
            x, y = first.clicks[image, prompt].long().tolist()
            number = first.labels[image, y, x]
            assert number > 0
            truth = (first.labels[image] == number).float().reshape(64, 2, 64, 2).mean((1, 3))
            assert torch.equal(truth, first.targets[image, prompt])


def test_the_loss_falls_when_the_masks_are_right(cache: nano_data.SceneCache) -> None:
    batch = nano_data.make_batch(np.random.default_rng(4), cache, 2, 4)
    right = (batch.targets * 2 - 1)[:, :, None].expand(-1, -1, 4, -1, -1) * 8
    certain = torch.ones(2, 4, 4)
    good, actual = prompt_loss(right, certain, batch.targets, 0.5, True)
    bad, _ = prompt_loss(-right, certain, batch.targets, 0.5, True)
    assert float(actual.min()) > 0.9
    assert float(good) < 0.5 < float(bad)


def test_the_auxiliary_task_is_solvable_and_ignores_what_has_no_object(cache: nano_data.SceneCache) -> None:
    batch = nano_data.make_batch(np.random.default_rng(6), cache, 2, 2)
    head = torch.nn.Linear(8, AUXILIARY)
    loss = auxiliary_loss(head, torch.randn(2, 256, 8), batch.labels, batch.extents)
    assert torch.isfinite(loss)


def test_orthogonalised_matrices_have_equal_singular_values() -> None:
    torch.manual_seed(1)
    spectrum = torch.linalg.svdvals(orthogonalised(torch.randn(3, 24, 40)))
    assert float(spectrum.min()) > 0.5
    assert float(spectrum.max()) < 1.5


def test_shards_are_written_whole(tmp_path: Path) -> None:
    nano_cache.render_shard((str(tmp_path), 5, 1, 2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images-001.npy", "labels-001.npy"]
