"""The training code of the embedded SAM 2 computes what ``Sam2Model`` computes, from nano's weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sam2_config import started
from sam2_forward import box_tokens, click_tokens, decode, early, encode, rows_first, z_order
from transformers import Sam2Model

from saqsam.shipped.embedded import embedded_sam


@pytest.fixture(scope="module")
def model() -> Sam2Model:
    model = started(embedded_sam("nano"), seed=1).eval().requires_grad_(False)
    for layer in (model.mask_decoder.conv_s0, model.mask_decoder.conv_s1):  # they start at zero
        layer.reset_parameters()
    model.no_memory_embedding.normal_(std=0.3)
    return model


def test_the_training_decoder_equals_sam2_on_boxes_clicks_and_masks(model: Sam2Model) -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, 3, 256, 256, generator=generator)
    boxes = torch.tensor([[[10.0, 12, 160, 170], [5, 5, 200, 90]]])
    clicks = torch.rand(1, 2, 2, 2, generator=generator) * 255
    labels = torch.tensor([[[1, 0], [1, 1]]])
    masks = torch.randn(1, 1, 64, 64, generator=generator)
    image = encode(model, early(model, pixels))
    for sparse, own, prompts in (
        (box_tokens(model, boxes), None, {"input_boxes": boxes}),
        (
            click_tokens(model, clicks, labels.bool()),
            None,
            {"input_points": clicks, "input_labels": labels},
        ),
        (box_tokens(model, boxes[:, :1]), masks, {"input_boxes": boxes[:, :1], "input_masks": masks}),
    ):
        logits, iou, objects = decode(model, image, sparse, own)
        expected = model(pixel_values=pixels, multimask_output=True, **prompts)
        assert torch.allclose(logits[:, :, 1:], expected.pred_masks, atol=3e-4)
        assert torch.allclose(iou[:, :, 1:], expected.iou_scores, atol=1e-4)
        assert torch.allclose(objects, expected.object_score_logits[..., 0], atol=1e-4)


def test_in_z_order_the_four_tokens_of_a_square_follow_each_other() -> None:
    assert z_order(4).tolist()[:8] == [0, 1, 4, 5, 2, 3, 6, 7]
    numbers = z_order(8)[:, None].float()
    assert torch.equal(rows_first(numbers)[:, 0], torch.arange(64.0))


def test_the_first_weights_hold_nanos_decoder_and_blocks(model: Sam2Model) -> None:
    """Tokens that entered nano's blocks come out of the new neck near to nano's embedding."""
    nano = embedded_sam("nano")
    pixels = torch.from_numpy(np.random.default_rng(3).normal(size=(1, 3, 128, 128))).float()
    pixels = torch.nn.functional.avg_pool2d(pixels, 9, 1, 4) * 5
    encoder = nano.vision_encoder
    tokens = (encoder.patch_embed(pixels) + encoder.pos_embed).flatten(1, 2)[:, z_order(16)]
    empty = [torch.zeros(1, 4096, 32), torch.zeros(1, 1024, 64)]
    found = rows_first(encode(model, [*empty, tokens]).main - model.no_memory_embedding)
    wanted = encoder(pixels).last_hidden_state.flatten(2).transpose(1, 2)
    assert float((found - wanted).square().mean() / wanted.var()) < 0.5
    ours, theirs = model.mask_decoder.transformer, nano.mask_decoder.transformer
    assert torch.equal(ours.layers[1].mlp.proj_out.weight, theirs.layers[1].mlp.lin2.weight)
