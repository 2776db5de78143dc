"""What quantizing one site alone does to the model's masks, for all sites and widths from few passes.

With ``t`` times a site's rounding error added at that site, the masks move by ``t J d`` to first order. For
random ``v`` the mean of ``(v^T J d)^2`` is ``||J d||^2`` (Hutchinson), and ``v^T J d`` is the derivative of
``v^T masks`` with respect to ``t`` at 0: one backward pass gives it for every site and width at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from saqsam.calibrate.images import CalibrationImage, pixels_of
from saqsam.families.embedding import Embedding
from saqsam.families.record import ENCODER, Model
from saqsam.families.registry import encoder_of
from saqsam.mixed.way_back import EncoderWay, Gradients, add, pulled_back
from saqsam.models.lookup import layer_at, module_at
from saqsam.models.sites import ATTENTION, INPUT, KEY, QUERY, VALUE, WEIGHT, Site, attention_rows
from saqsam.modules.layers import QuantizedLayer
from saqsam.modules.quantizer import Override, Quantizer
from saqsam.reconstruct.end_to_end import masks_and_scores
from saqsam.reconstruct.overrides import overridden
from saqsam.reconstruct.prompting import Prompting

_PROMPTS = 8
"""Prompts used of each image."""

Errors = dict[Site, list[float]]
"""Squared change of the outputs by site, one for each width."""


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
    model: Model,
    quantizers: Sequence[Mapping[Site, Quantizer]],
    images: Sequence[CalibrationImage],
    probes: int,
    generator: torch.Generator,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[Errors, Sizes]:
    """Errors of every site at each width, alone, and the sites' sizes.

    Args:
        model: with its folds; its weights are float.
        quantizers: its own by site, then those of the same sites at other widths; all have ranges.
        images: calibration images with prompts.
        probes: random vectors for each image.
        generator: draws them and the prompts; on the CPU.
        progress: called with the number of images done, the last of them with all.
    """
    scales = {site: torch.zeros(probes, len(quantizers), requires_grad=True) for site in quantizers[0]}
    overrides: dict[Quantizer, Override] = {}
    for site, quantizer in quantizers[0].items():
        overrides[quantizer] = partial(_moved, [found[site] for found in quantizers], scales[site])
    errors = {site: [0.0] * len(quantizers) for site in scales}
    for done, image in enumerate(images):
        progress(done)
        pixels, frame = pixels_of(model, image)
        prompting = Prompting.of(model, [(image.prompts, frame)], _PROMPTS, generator)
        with overridden(overrides):
            way = EncoderWay(model, pixels)
            found, gradients = _decoder_slopes(
                model, prompting, way.embedding, list(scales.values()), probes, generator
            )
            if any(site.part == ENCODER for site in scales):
                found = add(found, way.back(gradients, list(scales.values())))
        for site, slopes in zip(scales, found, strict=True):
            for own in slopes.tolist():
                for width, slope in enumerate(own):
                    errors[site][width] += slope**2
    progress(len(images))
    return errors, _sizes(model, quantizers[0], pixels, prompting)


@torch.enable_grad()
def _decoder_slopes(
    model: Model,
    prompting: Prompting,
    embedding: Embedding,
    scales: Sequence[Tensor],
    probes: int,
    generator: torch.Generator,
) -> tuple[Gradients, list[Gradients]]:
    """``v^T J d`` for each of ``probes`` random ``v`` and every width, by site, as far as the decoder goes.

    Also the derivatives of each ``v^T masks`` with respect to the embedding, with which the encoder goes on.

    A few prompts at a time: the decoder's graph of a SAM-B takes half a gigabyte for each prompt.
    """
    leaf = embedding.map(lambda x: x.detach().requires_grad_(True))
    (tokens,) = prompting.tokens
    groups = tokens.split(embedding.prompts_at_once())
    parts = replace(prompting, tokens=tuple(groups))
    found = [torch.zeros_like(scale) for scale in scales]
    to_embedding = [[torch.zeros_like(x) for x in leaf.tensors] for _ in range(probes)]
    vectors: list[tuple[Tensor, ...]] = []
    for index, group in enumerate(groups):
        output = masks_and_scores(model, parts, leaf, [index])
        if not vectors:  # now the size of the output is known
            size = (len(tokens), *output.shape[1:])
            drawn = [torch.randn(size, generator=generator).to(output) for _ in range(probes)]
            vectors = [vector.split(len(group)) for vector in drawn]
        wanted = [(vector[index],) for vector in vectors]
        shared, slopes = pulled_back((output,), wanted, scales, leaf.tensors)
        found = add(found, shared)
        to_embedding = [add(*both) for both in zip(to_embedding, slopes, strict=True)]
    return found, to_embedding


def _sizes(model: Model, quantizers: Mapping[Site, Quantizer], pixels: Tensor, prompting: Prompting) -> Sizes:
    """Elements of weights, and multiplications of activations in one image with its prompts."""
    elements: dict[Site, int] = {}

    def counted(site: Site, x: Tensor, value: Tensor | None) -> Tensor:
        del value
        elements[site] = elements.get(site, 0) + x.numel()
        return x

    with torch.no_grad(), overridden({q: partial(counted, site) for site, q in quantizers.items()}):
        embedding = encoder_of(model).plain(pixels.to(model.device, model.dtype))
        masks_and_scores(model, prompting, embedding, [0])
    weights = {site: layer_at(model, site).weight.numel() for site in quantizers if site.role == WEIGHT}
    return Sizes(weights, _multiplications(model, elements))


class _Moved(torch.autograd.Function):
    """``x + t @ (rounding errors of x)`` at t = 0: forward ``x``, backward slopes, a row for each vector.

    Rounding errors are computed on the way back, so that ``x`` is all that is kept; once for all vectors,
    whose gradients are held until the last of them comes.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scales: Tensor, quantizers: Sequence[Quantizer]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.quantizers, ctx.vectors, ctx.gradients = quantizers, len(scales), []
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        ctx.gradients.append(gradient.flatten())
        if len(ctx.gradients) < ctx.vectors:
            return gradient, None, None
        (x,) = ctx.saved_tensors
        slopes = []
        for quantizer in ctx.quantizers:
            errors = quantizer.grid.round_trip(x).sub_(x).flatten()
            slopes.append(torch.stack([torch.dot(own, errors) for own in ctx.gradients]))
        ctx.gradients = []
        return gradient, torch.stack(slopes, 1).cpu(), None


def _moved(quantizers: Sequence[Quantizer], scales: Tensor, x: Tensor, value: Tensor | None) -> Tensor:
    """``x``; what every width would change reaches ``scales`` ``(vectors, widths)`` as a gradient."""
    del value
    return cast(Tensor, _Moved.apply(x, scales, quantizers))  # type: ignore[no-untyped-call]


def _multiplications(model: Model, elements: Mapping[Site, int]) -> dict[Site, int]:
    """Multiplications from the numbers of elements that passed each site."""
    found = {}
    outputs = {row.path: row.output for row in attention_rows(model)}
    maps = {site.path: count for site, count in elements.items() if site.role == ATTENTION}
    for site, count in elements.items():
        if site.role == INPUT:
            weight = layer_at(model, site).weight
            found[site] = count * (weight.numel() // weight.shape[1])
        elif site.role in (QUERY, KEY, VALUE, ATTENTION):
            found[site] = maps.get(site.path, count) * _head_width(model, site.path, outputs[site.path])
    return found


def _head_width(model: Model, attention: str, output: str) -> int:
    """Channels of a head of the attention at a path, whose values the layer at the other path reads."""
    width: int = module_at(model, output, QuantizedLayer).weight.shape[1]
    heads: int = vars(model.get_submodule(attention))["num_attention_heads"]
    return width // heads
