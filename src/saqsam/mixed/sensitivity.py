"""What quantizing one site alone does to the model's masks, for all sites and widths from few passes.

With ``t`` times a site's rounding error added at that site, the masks move by ``t J d`` to first order. For
random ``v`` the mean of ``(v^T J d)^2`` is ``||J d||^2`` (Hutchinson), and ``v^T J d`` is the derivative of
``v^T masks`` with respect to ``t`` at 0: one backward pass gives it for every site and width at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from transformers import SamModel

from saqsam.calibration import CalibrationImage, pixels_of
from saqsam.models.attach import all_quantizers
from saqsam.models.lookup import layer_at
from saqsam.models.sites import ATTENTION, INPUT, KEY, QUERY, VALUE, WEIGHT, Site
from saqsam.quantizer import Quantizer
from saqsam.reconstruct.prompting import Prompting
from saqsam.reconstruct.replace import Answer, replaced
from saqsam.reconstruct.whole import masks_and_scores

Errors = dict[Site, list[float]]
"""Squared change of the outputs by site, one for each calibrated model."""


@dataclass
class Sizes:
    """What one bit costs.

    Attributes:
        weights: elements of each weight.
        activations: multiplications that each activation takes part in, for one image with its prompts.
    """

    weights: dict[Site, int]
    activations: dict[Site, int]


def sensitivities(
    models: Sequence[SamModel], images: Sequence[CalibrationImage], probes: int, generator: torch.Generator
) -> tuple[Errors, Sizes]:
    """Errors of every site in each model, alone, and the sites' sizes.

    Args:
        models: copies of one model with the same folds, calibrated at different widths. The first one runs.
        images: calibration images with prompts.
        probes: random vectors for each image.
        generator: draws them and the prompts; on the CPU.
    """
    first = models[0]
    quantizers = [all_quantizers(model) for model in models]
    scales = {site: torch.zeros(len(models), requires_grad=True) for site in quantizers[0]}
    sizes = Sizes({site: layer_at(first, site).weight.numel() for site in scales if site.role == WEIGHT}, {})
    products: dict[Site, int] = dict.fromkeys((s for s in scales if s.role != WEIGHT), 0)
    answers: dict[Quantizer, Answer] = {}
    for site, quantizer in quantizers[0].items():
        own = [found[site] for found in quantizers]
        answers[quantizer] = partial(_moved, site, own, scales[site], products)
    errors = {site: [0.0] * len(models) for site in scales}
    for image in images:
        pixels, frame = pixels_of(first, image)
        prompting = Prompting.of(first, [(image.prompts, frame)], 8, generator)
        products.update(dict.fromkeys(products, 0))
        with torch.enable_grad(), replaced(answers):
            embedding = first.vision_encoder(pixels.to(first.device, first.dtype)).last_hidden_state
            output = masks_and_scores(first, prompting, embedding, [0])
            vectors = [torch.randn(output.shape, generator=generator).to(output) for _ in range(probes)]
            sums = [(output * vector).sum() for vector in vectors]
        for index, total in enumerate(sums):
            kept = index + 1 < probes
            found = torch.autograd.grad(total, list(scales.values()), retain_graph=kept)
            for site, slopes in zip(scales, found, strict=True):
                for width, slope in enumerate(slopes.tolist()):
                    errors[site][width] += slope**2
    sizes.activations = _multiplications(first, products)
    return errors, sizes


def _moved(
    site: Site,
    quantizers: Sequence[Quantizer],
    scales: Tensor,
    products: dict[Site, int],
    x: Tensor,
    value: Tensor | None,
) -> Tensor:
    """``x``, and zero times the rounding error of every width, which autograd sees."""
    del value
    with torch.no_grad():
        differences = [Quantizer.forward(quantizer, x) - x for quantizer in quantizers]
        if site.role != WEIGHT:
            products[site] += x.numel()
    for scale, difference in zip(scales, differences, strict=True):
        x = x + scale.to(x) * difference
    return x


def _multiplications(model: SamModel, elements: Mapping[Site, int]) -> dict[Site, int]:
    """Multiplications from the numbers of elements that passed each site."""
    found = {}
    maps = {site.path: count for site, count in elements.items() if site.role == ATTENTION}
    for site, count in elements.items():
        if site.role == INPUT:
            weight = layer_at(model, site).weight
            found[site] = count * (weight.numel() // weight.shape[1])
        elif site.role in (QUERY, KEY, VALUE, ATTENTION):
            found[site] = maps.get(site.path, count) * _head_width(model, site)
    return found


def _head_width(model: SamModel, site: Site) -> int:
    attention = model.get_submodule(site.path)
    layer = attention.proj if hasattr(attention, "proj") else attention.out_proj
    width: int = layer.weight.shape[1] // vars(attention)["num_attention_heads"]
    return width
