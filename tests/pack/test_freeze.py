"""Freezing and auditing refuse a model that is not what would be stored, and say where (one test a fault)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SamModel

from saqsam.calibrate.observers import observer_for
from saqsam.errors import InvariantError
from saqsam.models.attach import all_quantizers
from saqsam.modules.quantizer import Quantizer, Stage
from saqsam.pack.audit import AuditReport, audit
from saqsam.pack.freeze import freeze
from saqsam.recipe import Ranges, Recipe

ENCODER = "vision_encoder.layers.3"
DECODER = "mask_decoder.transformer.layers.1.cross_attn_token_to_image"
Frozen = tuple[SamModel, Recipe]


@pytest.fixture
def frozen(quantized: Callable[..., tuple[SamModel, Recipe, object]]) -> Frozen:
    """A frozen nano with logarithmic attention maps that passes its audit."""
    model, recipe, _ = quantized("ptq4sam-s-w4a4")
    return model, recipe


def at(model: SamModel, site: str) -> Quantizer:
    return {found.name: quantizer for found, quantizer in all_quantizers(model).items()}[site]


def refused(model: SamModel, recipe: Recipe, site: str, message: str) -> AuditReport:
    """Both freeze and audit object, at the same site."""
    with pytest.raises(InvariantError, match=message) as caught:
        freeze(model, recipe)
    assert caught.value.site == site
    assert caught.value.exit_code == 4
    return audit(model, recipe)


def failing(report: AuditReport) -> dict[str, str]:
    return {check.name: check.site for check in report.failures}


def test_a_good_model_passes_again_and_again(frozen: Frozen) -> None:
    model, recipe = frozen
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    freeze(model, recipe)
    report = audit(model, recipe)
    assert report.ok
    assert len(report.checks) == 7
    for name, tensor in model.named_parameters():
        assert torch.equal(tensor, before[name])


def test_an_unobserved_site(frozen: Frozen) -> None:
    model, recipe = frozen
    at(model, f"{ENCODER}.attn:query").stage = Stage.OBSERVE
    report = refused(model, recipe, f"{ENCODER}.attn:query", "no range was ever observed")
    assert failing(report)["every quantizer is frozen and observes nothing"] == f"{ENCODER}.attn:query"


def test_nothing_is_frozen_before_everything_can_be(frozen: Frozen) -> None:
    model, recipe = frozen
    for quantizer in all_quantizers(model).values():
        quantizer.stage = Stage.FAKE
    last = list(all_quantizers(model).values())[-1]
    last.stage = Stage.OBSERVE
    with pytest.raises(InvariantError) as caught:
        freeze(model, recipe)
    assert caught.value.site == last.site
    stages = {quantizer.stage for quantizer in all_quantizers(model).values()}
    assert stages == {Stage.FAKE, Stage.OBSERVE}


def test_an_attached_observer(frozen: Frozen) -> None:
    model, recipe = frozen
    quantizer = at(model, f"{DECODER}:key")
    quantizer.stage = Stage.FAKE
    quantizer.observer = observer_for(quantizer, Ranges())
    report = refused(model, recipe, f"{DECODER}:key", "an observer is still attached")
    assert f"{DECODER}:key" in failing(report).values()


@pytest.mark.parametrize("path", [f"{ENCODER}.mlp.lin2", f"{DECODER}.v_proj", "vision_encoder.neck.conv2"])
def test_a_weight_off_its_grid(frozen: Frozen, path: str) -> None:
    """What soft rounding leaves behind: one weight a hundredth of a step beside its integer."""
    model, recipe = frozen
    layer = model.get_submodule(path)
    layer.weight.view(-1)[7] += 0.01 * float(layer.weight_quantizer.affine.scale[0])
    report = refused(model, recipe, f"{path}:weight", "away from its 4-bit grid")
    assert failing(report) == {"every quantized weight equals its own round trip": f"{path}:weight"}


def test_a_random_branch_in_a_layer(frozen: Frozen) -> None:
    """Half of the inputs of one layer bypass its quantizer, others at every pass."""
    model, recipe = frozen
    layer = model.get_submodule(f"{ENCODER}.mlp.lin1")

    def mixed(x: Tensor) -> Tensor:
        return torch.where(torch.rand_like(x) < 0.5, layer.input_quantizer(x), x)

    layer.forward = lambda x: F.linear(mixed(x), layer.weight, layer.bias)
    report = refused(model, recipe, f"{ENCODER}.mlp.lin2:input", "something is random here or before it")
    assert set(failing(report)) == {"two forward passes are identical"}


class Dropping(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.1, training=True)


def test_dropout_left_on(frozen: Frozen) -> None:
    model, recipe = frozen
    norm = model.mask_decoder.transformer.layers[1].layer_norm1
    model.mask_decoder.transformer.layers[1].layer_norm1 = nn.Sequential(norm, Dropping())
    with pytest.raises(InvariantError, match="random here or before it") as caught:
        freeze(model, recipe)
    assert caught.value.site.startswith("mask_decoder.transformer.layers.1.cross_attn_token_to_image")


def test_randomness_after_the_last_site(frozen: Frozen) -> None:
    model, recipe = frozen
    model.mask_decoder.upscale_layer_norm = nn.Sequential(model.mask_decoder.upscale_layer_norm, Dropping())
    refused(model, recipe, "pred_masks", "random here or before it")


class OneLevelTooMany(Quantizer):
    """The published logarithmic grid: as many levels as codes, and zero besides."""

    def forward(self, x: Tensor, value: Tensor | None = None) -> Tensor:
        scale, tau = self.grid.scale, self.grid.tau
        codes = torch.round(-tau * torch.log2(x.clamp(min=1e-20) / scale)).clamp(min=0)
        return torch.where(codes >= 2**self.bits, 0.0, scale * torch.exp2(-codes / tau))


def test_an_extra_level_on_a_logarithmic_grid(frozen: Frozen) -> None:
    model, recipe = frozen
    at(model, f"{ENCODER}.attn:attention").__class__ = OneLevelTooMany
    report = refused(model, recipe, f"{ENCODER}.attn:attention", "lie off the 4-bit grid")
    assert failing(report) == {"every activation stays on its grid": f"{ENCODER}.attn:attention"}


class Half(Quantizer):
    """A quantizer that lets every other value through, the same ones at every pass."""

    def forward(self, x: Tensor, value: Tensor | None = None) -> Tensor:
        moved = super().forward(x, value)
        moved.view(-1)[::2] = x.reshape(-1)[::2]
        return moved


def test_values_that_bypass_the_grid(frozen: Frozen) -> None:
    model, recipe = frozen
    at(model, f"{DECODER}.k_proj:input").__class__ = Half
    refused(model, recipe, f"{DECODER}.k_proj:input", r"50\.0% of its values lie off the 4-bit grid")


def test_a_site_without_its_quantizer(frozen: Frozen) -> None:
    model, recipe = frozen
    model.get_submodule(DECODER).quantizers.value = None
    refused(model, recipe, f"{DECODER}:value", "is in the recipe's plan but has no quantizer")


def test_a_site_that_is_never_reached(frozen: Frozen) -> None:
    model, recipe = frozen
    layer = model.get_submodule(f"{ENCODER}.mlp.lin1")
    layer.effective_input = lambda x: x
    refused(model, recipe, f"{ENCODER}.mlp.lin1:input", "never called")


def test_other_bits_than_the_recipe_says(frozen: Frozen) -> None:
    model, recipe = frozen
    at(model, f"{DECODER}:key").grid.bits = 8
    refused(model, recipe, f"{DECODER}:key", "has 8-bit affine, planned 4-bit affine")


def test_a_scale_that_is_no_number(frozen: Frozen) -> None:
    model, recipe = frozen
    at(model, f"{DECODER}:key").affine.scale.fill_(torch.inf)
    report = audit(model, recipe)
    assert failing(report)["every quantizer is frozen and observes nothing"] == f"{DECODER}:key"


def test_a_float_parameter_too_large_for_its_type(frozen: Frozen) -> None:
    model, recipe = frozen
    name = "mask_decoder.upscale_conv1.bias"
    model.get_parameter(name)[0] = 1e6
    with pytest.raises(InvariantError, match="float_dtype=float32") as caught:
        freeze(model, recipe)
    assert caught.value.site == name


def test_a_float_parameter_between_two_stored_values(frozen: Frozen) -> None:
    model, recipe = frozen
    name = "vision_encoder.layers.0.layer_norm1.weight"
    model.get_parameter(name)[0] = 1.0001
    assert failing(audit(model, recipe)) == {"the float rest fits its storage type": name}


def test_not_finite_outputs(frozen: Frozen) -> None:
    model, recipe = frozen
    model.mask_decoder.upscale_conv2.bias[0] = torch.nan
    assert "outputs are finite" in failing(audit(model, recipe))
