"""Prompt-aware reconstruction against a plain second implementation, written from the paper's description.

The oracle keeps a float copy of the model, replaces outputs of quantizers by forward hooks, uses
``transformers``' own layout (one image broadcast over its prompts), writes straight-through rounding as
``x + (rounded - x).detach()`` and steps a plain Adam. Nothing of ``saqsam.reconstruct`` is used in it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import SamModel

from saqsam.calibrate.choose_range import choose_activation_range, choose_weight_range
from saqsam.calibrate.images import CalibrationImage, pixels_of
from saqsam.calibrate.observers import observer_for
from saqsam.families.embedding import Embedding
from saqsam.grids.affine import Affine
from saqsam.grids.log2 import Log2
from saqsam.models.attach import all_quantizers, attach
from saqsam.models.plan import plan_sites
from saqsam.models.sites import WEIGHT, Site
from saqsam.modules.quantizer import Quantizer
from saqsam.recipe import Recipe, load_recipe
from saqsam.reconstruct.learner import Learner
from saqsam.reconstruct.loss import Problem
from saqsam.reconstruct.optimise import optimise
from saqsam.reconstruct.overrides import overridden, unquantized
from saqsam.reconstruct.prompting import Prompting
from saqsam.reconstruct.units import Unit, decoder_units, encoder_units

STEPS = 3
SETTINGS = (
    *("calibration.images=1", "calibration.prompts=3", "reconstruct.batch=1", "clip.method=none"),
    *("folds.bimodal_sign_flip=false", "reconstruct.quantized_share=1.0", f"reconstruct.iterations={STEPS}"),
    *("reconstruct.warm_up=0.0", "reconstruct.weight_rate=0.02", "reconstruct.scale_rate=0.01"),
)


@pytest.fixture
def case(
    tiny_sam: SamModel, images_for: Callable[[Recipe], Sequence[CalibrationImage]]
) -> tuple[SamModel, SamModel, Recipe, CalibrationImage]:
    """The float model, a calibrated copy, the recipe, one image."""
    recipe = load_recipe("saq-sam-w4a4", settings=SETTINGS)
    (image,) = images_for(recipe)
    model = copy.deepcopy(tiny_sam)
    plan = plan_sites(model, recipe)
    attach(model, plan)
    for site, quantizer in all_quantizers(model).items():
        if site.role != WEIGHT:
            quantizer.observer = observer_for(quantizer, plan[site.name].ranges)
    pixels, frame = pixels_of(model, image)
    boxes = frame.scale_boxes(image.prompts.boxes)[None]
    with torch.no_grad():
        model(pixel_values=pixels, input_boxes=boxes, multimask_output=False)
    for site, quantizer in all_quantizers(model).items():
        ranges = plan[site.name].ranges
        if site.role == WEIGHT:
            choose_weight_range(quantizer, ranges, model.get_submodule(site.path).weight)
        else:
            choose_activation_range(quantizer, ranges)
    return tiny_sam, model, recipe, image


class Oracle:
    """Softly rounded weights and learned scales of the given sites, by hooks on their quantizers."""

    def __init__(self, model: SamModel, quantizers: dict[Site, Quantizer]) -> None:
        self.model, self.quantizers = model, quantizers
        self.alpha, self.ratio = {}, {}
        for site, quantizer in quantizers.items():
            if site.role == WEIGHT:
                weight = model.get_submodule(site.path).weight.data
                scale = quantizer.affine.scale.view(-1, *[1] * (weight.ndim - 1))
                rest = weight / scale - torch.floor(weight / scale)
                start = -torch.log(1.2 / (rest + 0.1) - 1)
                self.alpha[site.name] = start.requires_grad_()
            elif isinstance(quantizer.grid, Affine):
                self.ratio[site.name] = torch.zeros(()).requires_grad_()

    def up(self, name: str) -> Tensor:
        return torch.clamp(torch.sigmoid(self.alpha[name]) * 1.2 - 0.1, 0, 1)

    def value(self, site: Site, quantizer: Quantizer, x: Tensor) -> Tensor:
        levels = 2**quantizer.bits - 1
        if site.role == WEIGHT:
            shape = (-1, *[1] * (x.ndim - 1))
            scale, zero = quantizer.affine.scale.view(shape), quantizer.affine.zero_point.view(shape)
            code = torch.floor(x / scale) + self.up(site.name) + zero
            return scale * (torch.maximum(torch.minimum(code, torch.tensor(levels)), torch.tensor(0)) - zero)
        if isinstance(quantizer.grid, Log2):
            scale, tau = quantizer.grid.scale, quantizer.grid.tau
            n = -tau * torch.log2(x / scale)
            n = n + (n.round() - n).detach()
            kept = n.detach() < levels
            power = scale * 2 ** (-n.clamp(min=0) / tau)
            return torch.where(kept, power, 0.0)
        scale = quantizer.affine.scale * torch.exp(self.ratio[site.name])
        v = x / scale
        v = v + (v.round() - v).detach()
        return scale * (torch.clamp(v + quantizer.affine.zero_point, 0, levels) - quantizer.affine.zero_point)

    @contextmanager
    def active(self) -> Iterator[None]:
        handles = []
        for site, quantizer in all_quantizers(self.model).items():

            def answer(module: Any, inputs: Any, output: Tensor, site: Site = site) -> Tensor:
                return self.value(site, module, inputs[0]) if site in self.quantizers else inputs[0]

            handles.append(quantizer.register_forward_hook(answer))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def step(self, loss: Tensor, beta: float, state: dict[str, Any], rates: tuple[float, float]) -> None:
        """One step of Adam (Kingma and Ba 2015, algorithm 1) on loss + 0.01 * rounding term."""
        term = sum((1 - (2 * self.up(name) - 1).abs() ** beta).sum() for name in self.alpha)
        learned = [(name, p, rates[0]) for name, p in self.alpha.items()]
        learned += [(name, p, rates[1]) for name, p in self.ratio.items()]
        gradients = torch.autograd.grad(loss + 0.01 * term, [p for _, p, _ in learned])
        state["t"] = state.get("t", 0) + 1
        for (name, p, rate), g in zip(learned, gradients, strict=True):
            m, v = state.get(name, (torch.zeros_like(p), torch.zeros_like(p)))
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            state[name] = (m, v)
            unbiased = (v / (1 - 0.999 ** state["t"])).sqrt()
            with torch.no_grad():
                p -= rate * m / (1 - 0.9 ** state["t"]) / (unbiased + 1e-8)


def tokens_of(float_sam: SamModel, model: SamModel, image: CalibrationImage) -> tuple[Tensor, Tensor, Tensor]:
    """Decoder tokens (1, P, T, C), dense embedding and positions in transformers' own layout."""
    _, frame = pixels_of(model, image)
    sparse, dense = float_sam.prompt_encoder(None, None, frame.scale_boxes(image.prompts.boxes)[None], None)
    decoder = float_sam.mask_decoder
    output = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([output.repeat(1, sparse.shape[1], 1, 1), sparse], dim=2)
    return tokens, dense, float_sam.get_image_wide_positional_embeddings()


def cit(sam: SamModel, embedding: Tensor, tokens: Tensor, dense: Tensor, positions: Tensor) -> Tensor:
    """Image tokens after the whole transformer, (P, 1, N, C)."""
    prompts = tokens.shape[1]
    return sam.mask_decoder.transformer(
        point_embeddings=tokens,
        image_embeddings=(embedding + dense).repeat_interleave(prompts, 0),
        image_positional_embeddings=positions.repeat_interleave(prompts, 0),
        attention_similarity=None,
    )[1]


def learn(
    problem: Problem, model: SamModel, recipe: Recipe, quantizers: dict[Site, Quantizer]
) -> tuple[list[float], Learner]:
    learner = Learner(model, quantizers, recipe.reconstruct)
    rest = [q for q in all_quantizers(model).values() if q not in quantizers.values()]
    with overridden(unquantized(rest)):
        losses = optimise(problem, learner, recipe.reconstruct, torch.Generator().manual_seed(0))
    return losses, learner


def compare(found: tuple[list[float], Learner], oracle: Oracle, expected: list[float]) -> None:
    losses, learner = found
    assert losses == pytest.approx(expected, rel=1e-3)
    for quantizer, rounding in learner.roundings.items():
        # Adam divides by the gradient's size, so an element with a vanishing gradient may go either way.
        difference = (rounding.alpha - oracle.alpha[quantizer.site]).abs().detach()
        assert difference.mean() < 1e-4, quantizer.site
    for quantizer, scale in learner.scales.items():
        assert scale.log_ratio.item() == pytest.approx(oracle.ratio[quantizer.site].item(), abs=2e-4)


def cosine(step: int) -> float:
    return float(0.01 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / STEPS))))


def beta(step: int) -> float:
    return 2 + 18 * (1 - step / STEPS)


def test_encoder_stage_loss_and_first_steps(
    case: tuple[SamModel, SamModel, Recipe, CalibrationImage],
) -> None:
    float_sam, model, recipe, image = case
    pixels, frame = pixels_of(model, image)
    tokens, dense, positions = tokens_of(float_sam, model, image)

    # Oracle: blocks 0 and 1, then the float neck and the float decoder, in the float copy of the model.
    encoder = float_sam.vision_encoder
    start = encoder.patch_embed(pixels) + encoder.pos_embed
    y = encoder.layers[1](encoder.layers[0](start))
    wanted = cit(float_sam, encoder.neck(y), tokens, dense, positions)
    blocks = ("vision_encoder.layers.0.", "vision_encoder.layers.1.")
    quantizers = {site: q for site, q in all_quantizers(model).items() if site.path.startswith(blocks)}
    oracle, expected, state = Oracle(model, quantizers), [], {}
    relative = 0.1 * float(wanted.square().sum(-1).mean() / y.square().sum(-1).mean())
    for step in range(STEPS):
        with torch.enable_grad(), oracle.active():
            found = model.vision_encoder.layers[1](model.vision_encoder.layers[0](start))
            seen = cit(float_sam, encoder.neck(found), tokens, dense, positions)
            loss = (seen - wanted).square().sum(-1).mean()
            loss = loss + relative * (found - y).square().sum(-1).mean()
            expected.append(float(loss.detach()))
            oracle.step(loss, beta(step), state, (0.02, cosine(step)))

    prompting = Prompting.of(model, [(image.prompts, frame)], 16, torch.Generator())
    unit = next(encoder_units(model, prompting, "stage"))
    assert list(unit.quantizers(all_quantizers(model))) == list(quantizers)
    problem = problem_of(model, unit, (start,), recipe)
    compare(learn(problem, model, recipe, quantizers), oracle, expected)


def problem_of(model: SamModel, unit: Unit, state: tuple[Tensor, ...], recipe: Recipe) -> Problem:
    from saqsam.reconstruct.loss import balanced

    with torch.no_grad(), overridden(unquantized(all_quantizers(model).values())):
        target = unit.run(state)
        view = unit.seen(target, [0])
    weights = balanced(unit, [target], [view], 1.0, recipe.reconstruct.local_weight)
    return Problem(unit, [state], [state], [target], [view], weights)


def test_decoder_layer_loss_and_first_steps(
    case: tuple[SamModel, SamModel, Recipe, CalibrationImage],
) -> None:
    float_sam, model, recipe, image = case
    pixels, frame = pixels_of(model, image)
    tokens, dense, positions = tokens_of(float_sam, model, image)
    prompts = tokens.shape[1]
    embedding = float_sam.vision_encoder(pixels).last_hidden_state

    keys = (embedding + dense).repeat_interleave(prompts, 0).flatten(2).transpose(1, 2).unsqueeze(1)
    place = positions.repeat_interleave(prompts, 0).flatten(2).transpose(1, 2).unsqueeze(1)

    def rest(layers: Any, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Layer 0 of one model, layer 1 and the final attention of the float one."""
        q0, k0, _ = layers[0](queries, keys, tokens, place, None)
        transformer = float_sam.mask_decoder.transformer
        q1, k1, _ = transformer.layers[1](q0, k0, tokens, place, None)
        final, _ = transformer.final_attn_token_to_image(query=q1 + tokens, key=k1 + place, value=k1)
        return q0, k0, transformer.layer_norm_final_attn(q1 + final)

    q, k, wanted = rest(float_sam.mask_decoder.transformer.layers, tokens, keys)
    prefix = "mask_decoder.transformer.layers.0."
    quantizers = {site: x for site, x in all_quantizers(model).items() if site.path.startswith(prefix)}
    oracle, expected, state = Oracle(model, quantizers), [], {}

    def norm(x: Tensor) -> Tensor:
        return x.square().sum(-1).mean()

    relative = 0.1 * float(norm(wanted) / (0.01 * norm(q) + norm(k)))
    for step in range(STEPS):
        with torch.enable_grad(), oracle.active():
            found_q, found_k, seen = rest(model.mask_decoder.transformer.layers, tokens, keys)
            loss = norm(seen - wanted) + relative * (0.01 * norm(found_q - q) + norm(found_k - k))
            expected.append(float(loss.detach()))
            oracle.step(loss, beta(step), state, (0.02, cosine(step)))

    prompting = Prompting.of(model, [(image.prompts, frame)], 16, torch.Generator())
    unit = next(decoder_units(model, prompting, recipe.reconstruct.token_weight))
    problem = problem_of(model, unit, prompting.start(Embedding(embedding), [0]), recipe)
    compare(learn(problem, model, recipe, quantizers), oracle, expected)
