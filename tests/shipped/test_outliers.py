"""The outlier fixtures: same function, other numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import SamModel

from saqsam.calibrate.images import CalibrationImage, pixels_of
from saqsam.errors import UsageError
from saqsam.segment.predictor import embed
from saqsam.shipped.embedded import embedded_sam
from saqsam.shipped.names import EMBEDDED_NAMES
from saqsam.shipped.outliers import (
    bimodal_keys,
    constant_key_bias,
    create_dead_slots,
    decoder_attentions,
    inject_outliers,
    sheared_keys,
)


def outputs(model: SamModel, scene: CalibrationImage) -> list[Tensor]:
    """Masks and predicted IoU for boxes, clicks, and a mask with a click."""
    pixels, frame = pixels_of(model, scene)
    image = embed(model, pixels)
    levels = [*image.features, image.main]  # SAM 2 takes a list, SAM its only one
    embedding = levels if len(levels) > 1 else levels[0]
    boxes = frame.scale_boxes(scene.prompts.boxes)[None]
    points = torch.tensor([[[[30.0, 40.0], [80.0, 90.0]]]])
    labels = torch.tensor([[[1, 0]]])
    masks = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(4)) * 6
    found = []
    for prompts in (
        {"input_boxes": boxes},
        {"input_points": points, "input_labels": labels},
        {"input_points": points, "input_labels": labels, "input_masks": masks},
    ):
        with torch.no_grad():
            out = model(image_embeddings=embedding, multimask_output=True, **prompts)
        found += [out.pred_masks, out.iou_scores]
    return found


def reaches(model: SamModel, scene: CalibrationImage) -> dict[str, list[float]]:
    """Largest absolute query and key of every decoder attention."""
    found: dict[str, list[float]] = {"query": [], "key": []}
    handles = [
        getattr(attention, name).register_forward_hook(
            lambda module, inputs, output, name=name: found[name].append(float(output.abs().max()))
        )
        for attention in decoder_attentions(model)
        for name in found
    ]
    outputs(model, scene)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("name", ["nano", "small", "nano-sam2"])
def test_outlier_variants_compute_what_they_were_made_of(
    name: str, scenes: tuple[CalibrationImage, ...]
) -> None:
    plain, extreme = embedded_sam(name), embedded_sam(f"{name}-outliers")
    for scene in scenes[:3]:
        for one, other in zip(outputs(plain, scene), outputs(extreme, scene), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["nano", "small", "nano-sam2"])
def test_their_queries_and_keys_are_extreme(name: str, scenes: tuple[CalibrationImage, ...]) -> None:
    extreme, plain = embedded_sam(f"{name}-outliers"), embedded_sam(name)
    for side in ("query", "key"):
        found = reaches(extreme, scenes[0])[side]
        assert len(found) == 3 * 7
        assert max(found) > 140
        assert min(found) > 50  # a mask prompt with one click has few tokens to show them
        assert max(found) < 300
        assert max(reaches(plain, scenes[0])[side]) < 40


CONTROLS: dict[str, Callable[[SamModel], SamModel]] = {
    "constant key bias": constant_key_bias,
    "sheared keys": sheared_keys,
    "bimodal keys": bimodal_keys,
}


@pytest.mark.parametrize("name", CONTROLS)
def test_controls_keep_the_function_and_their_input(
    name: str, nano: SamModel, scenes: tuple[CalibrationImage, ...]
) -> None:
    before = {key: tensor.clone() for key, tensor in nano.state_dict().items()}
    changed = CONTROLS[name](nano)
    for key, tensor in nano.state_dict().items():
        assert torch.equal(tensor, before[key])
    assert not torch.equal(
        changed.state_dict()["mask_decoder.transformer.layers.0.self_attn.k_proj.bias"],
        before["mask_decoder.transformer.layers.0.self_attn.k_proj.bias"],
    )
    for one, other in zip(outputs(nano, scenes[0]), outputs(changed, scenes[0]), strict=True):
        assert float((one - other).abs().max() / one.abs().max()) < 2e-3


def test_outliers_need_channels_without_effect(tiny_sam: SamModel) -> None:
    with pytest.raises(UsageError, match="create_dead_slots"):
        inject_outliers(tiny_sam)
    create_dead_slots(tiny_sam)
    changed = inject_outliers(tiny_sam, magnitude=50.0)
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[[5.0, 5, 40, 50]]])
    with torch.no_grad():
        one, other = (m(pixel_values=pixels, input_boxes=boxes) for m in (tiny_sam, changed))
    assert torch.equal(one.pred_masks, other.pred_masks)


def test_embedded_models_are_known_by_name() -> None:
    kinds = ("nano", "small", "nano-sam2")
    assert tuple(name for kind in kinds for name in (kind, f"{kind}-outliers")) == EMBEDDED_NAMES
    with pytest.raises(UsageError, match="nano, nano-outliers, small, small-outliers"):
        embedded_sam("micro")
    for parameter in embedded_sam("nano").parameters():
        assert parameter.dtype == torch.float32
        assert not parameter.requires_grad
