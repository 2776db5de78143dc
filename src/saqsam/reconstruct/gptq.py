"""Rounding in closed form, column by column, each error made up for by the columns still to come.

GPTQ (Frantar et al. 2023, section 3; the sweep is that of OBQ) on the quantizer's own grid. What is
minimised is ``||W X - W^ X^||^2``: X is what enters the layer in the float model and X^ what enters it
in the quantized one, so the weight first moves to where it best makes up for its input's error.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saqsam.grids.affine import affine_round_trip
from saqsam.modules.layers import QuantizedLayer
from saqsam.modules.quantizer import Quantizer
from saqsam.reconstruct.layerwise import LayerInputs
from saqsam.reconstruct.learner import write_weight

_BLOCK = 64
"""Columns swept before the rest of the weight is updated at once; changes memory traffic, not results."""


def round_layer(inputs: LayerInputs, quantizer: Quantizer, *, damping: float, compensate: bool) -> None:
    """Put one layer's weight on its grid, in place; its scales stay as they are.

    Args:
        inputs: what enters the layer; its weight is still float.
        quantizer: of its weight.
        damping: see ``closed_form``.
        compensate: let weight and bias make up for the error of the layer's input; the bias takes care of
            the layer's mean output, the weight of the rest.
    """
    layer = inputs.layer
    moments = Moments.empty(layer.weight[0].numel(), layer.weight.device)
    for found, wanted in zip(inputs.quantized, inputs.original, strict=True):
        moments.add(layer.effective_input(found), wanted)
    round_by(moments, layer, quantizer, damping=damping, compensate=compensate)


def round_by(
    moments: Moments, layer: QuantizedLayer, quantizer: Quantizer, *, damping: float, compensate: bool
) -> None:
    """The same with the statistics of the layer's input at hand."""
    correct = compensate and layer.bias is not None
    rounded = closed_form(
        layer.weight.data,
        moments.centred() if correct else moments,
        quantizer,
        damping=damping,
        compensate=compensate,
    )
    if correct and layer.bias is not None:
        layer.bias.data = corrected_bias(layer.bias.data, layer.weight.data, rounded, moments)
    write_weight(layer, quantizer, rounded)


@dataclass
class Moments:
    """Sums over tokens of what a layer's input was and should have been; float64.

    Attributes:
        gram: ``(in, in)``, sum of ``x^ x^T`` over quantized-path inputs ``x^``.
        cross: ``(in, in)``, sum of ``x x^T`` with the float-path inputs ``x``.
        total: ``(in,)`` sum of ``x^``; ``float_total`` that of ``x``.
        count: tokens.
    """

    gram: Tensor
    cross: Tensor
    total: Tensor
    float_total: Tensor
    count: int = 0

    @classmethod
    def empty(cls, width: int, device: torch.device) -> Moments:
        """No tokens yet."""
        square = torch.zeros((width, width), dtype=torch.float64, device=device)
        line = torch.zeros(width, dtype=torch.float64, device=device)
        return cls(square, square.clone(), line, line.clone())

    def add(self, quantized: Tensor, original: Tensor) -> None:
        """Add tokens ``(tokens, in)``, the same ones of both paths; at most some thousand at a time.

        Products are taken in the tokens' own precision, which is twice as fast as in float64, and added up
        in float64.
        """
        self.gram += quantized.T @ quantized
        self.cross += original.T @ quantized
        self.total += quantized.double().sum(0)
        self.float_total += original.double().sum(0)
        self.count += len(quantized)

    def centred(self) -> Moments:
        """The same about the means, for a layer whose bias takes care of the means."""
        gram = self.gram - torch.outer(self.total, self.total) / self.count
        cross = self.cross - torch.outer(self.float_total, self.total) / self.count
        return Moments(gram, cross, self.total, self.float_total, self.count)


def closed_form(
    weight: Tensor, moments: Moments, quantizer: Quantizer, *, damping: float, compensate: bool
) -> Tensor:
    """The rounded weight, on its grid.

    Args:
        weight: ``(out, ...)`` float.
        moments: of the layer's inputs, flattened as the weight is.
        quantizer: the weight's, with its scales, which stay as they are.
        damping: added to the diagonal, as a share of its mean.
        compensate: first move the weight to make up for its input's error.
    """
    flat = weight.detach().flatten(1).double()
    gram = moments.gram.clone()
    diagonal = gram.diagonal()
    dead = diagonal <= 0
    diagonal += damping * float(diagonal.mean()) + dead.double()
    if compensate:
        moved = torch.linalg.solve(gram, (moments.cross - moments.gram).T @ flat.T)
        flat = flat + moved.T
    order = torch.argsort(gram.diagonal(), descending=True, stable=True)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram[order][:, order]))
    factor = torch.linalg.cholesky(inverse, upper=True)
    scale, zero_point = quantizer.affine.shaped(flat)
    rounded = torch.empty_like(flat)
    rounded[:, order] = _sweep(flat[:, order].clone(), factor, scale.double(), zero_point, quantizer.bits)
    return quantizer.by_stage(rounded.to(weight.dtype).view_as(weight))


def _sweep(flat: Tensor, factor: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    """Round column after column; ``factor`` is the upper Cholesky factor of the inverse Gram matrix."""
    width = flat.shape[1]
    rounded = torch.empty_like(flat)
    for begin in range(0, width, _BLOCK):
        end = min(begin + _BLOCK, width)
        errors = torch.empty_like(flat[:, begin:end])
        for column in range(begin, end):
            own = flat[:, column : column + 1]
            value = affine_round_trip(own, scale, zero_point, bits)
            error = (own - value) / factor[column, column]
            flat[:, column:end] -= error * factor[column, column:end]
            rounded[:, column : column + 1] = value
            errors[:, column - begin : column - begin + 1] = error
        flat[:, end:] -= errors @ factor[begin:end, end:]
    return rounded


def corrected_bias(bias: Tensor, weight: Tensor, rounded: Tensor, moments: Moments) -> Tensor:
    """The bias that makes the layer's mean output what it is in the float model, ``(out,)``."""
    wanted = weight.detach().flatten(1).double() @ moments.float_total
    found = rounded.flatten(1).double() @ moments.total
    return bias + ((wanted - found) / moments.count).to(bias.dtype)
