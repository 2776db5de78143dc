"""Options beyond the papers: clicks instead of boxes, learned biases, weight-only methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from transformers import SamModel

from saqsam.calibrate.images import CalibrationImage, pixels_of
from saqsam.models.attach import all_quantizers
from saqsam.models.sites import WEIGHT
from saqsam.pipeline import Report
from saqsam.recipe import Recipe, load_recipe
from saqsam.reconstruct.prompting import Prompting

Quantized = Callable[..., tuple[SamModel, Report]]
ImagesFor = Callable[[Recipe], Sequence[CalibrationImage]]


def test_boxes_become_clicks_on_their_centres(tiny_sam: SamModel, images_for: ImagesFor) -> None:
    (image,) = images_for(load_recipe("mse", settings=["calibration.images=1", "calibration.prompts=4"]))
    count = len(image.prompts)
    _, frame = pixels_of(tiny_sam, image)
    asked = [(image.prompts, frame)]
    generator = torch.Generator().manual_seed(1)
    (tokens,) = Prompting.of(tiny_sam, asked, 16, generator, clicks=1.0).tokens
    boxes = frame.scale_boxes(image.prompts.boxes)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1))[:16]
    centres = ((boxes[:, :2] + boxes[:, 2:]) / 2)[order]
    expected, _ = tiny_sam.prompt_encoder(
        centres[None, :, None], torch.ones(1, count, 1, dtype=torch.int64), None, None
    )
    torch.testing.assert_close(tokens[:, 0, -2:], expected[0])
    # Mixed, both kinds have equally many tokens, so that they fit into one batch.
    (mixed,) = Prompting.of(tiny_sam, asked, 16, torch.Generator().manual_seed(1), clicks=0.5).tokens
    assert mixed.shape == tokens.shape


def test_biases_are_learned_only_if_asked_for(quantized: Quantized, tiny_sam: SamModel) -> None:
    changes = []
    alone = ("reconstruct.rounding=nearest", "reconstruct.scales=false", "reconstruct.quantized_share=1.0")
    for rate in (0.0, 0.002):
        settings = (*alone, "folds.bimodal_sign_flip=false", f"reconstruct.bias_rate={rate}")
        model, report = quantized("saq-sam-w3a3", *settings)
        if rate:
            assert report.units[0]["after"] < report.units[0]["before"]
        assert not any(parameter.requires_grad for parameter in model.parameters())
        biases = {n: p for n, p in model.named_parameters() if n.endswith(".bias") and "layer_norm" not in n}
        before = dict(tiny_sam.named_parameters())
        changes.append(max(float((p - before[n].half()).abs().max()) for n, p in biases.items()))
    assert changes[0] == 0.0
    assert 0.001 < changes[1] < 0.02


def test_weight_only_methods_leave_activation_scales_as_calibrated(quantized: Quantized) -> None:
    (plain, _), (learned, _) = quantized("mse-w4a4"), quantized("brecq-w4a4", "reconstruct.iterations=2")
    for site, quantizer in all_quantizers(learned).items():
        assert torch.equal(quantizer.grid.numbers(), all_quantizers(plain)[site].grid.numbers()), site.name
    assert sum(site.role != WEIGHT for site in all_quantizers(learned)) > 80
