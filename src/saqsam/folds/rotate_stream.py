"""Rotation of the encoder's residual stream, through its layer norms (QuaRot and SliceGPT, for SAM).

Layer norm without its weight and bias commutes with an orthogonal Q that leaves the all-ones vector alone:
mean and variance stay, so ``LN(Q x) = Q LN(x)``. Each norm's weight moves into the linear layer after it and
its bias is turned: with ``W' = W diag(g) Q^T``, weight 1 and bias ``Q (b / g)``,
``W' (Q n + Q (b / g)) = W (g n + b)``. The bias stays in the norm rather than going into the layer's,
because windows are padded with zeros after the norm, and ``W' 0 = W 0``. Whatever is added to the stream is
turned as well: patch embedding, positions, outputs of attentions and MLPs; the neck's first convolution turns
back.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from saqsam.errors import UsageError
from saqsam.families.record import Model
from saqsam.families.registry import encoder_of
from saqsam.folds.orthogonal import keeping_the_mean

_SMALLEST = 1e-3
"""Least weight of a norm, as a share of its largest: dividing by less would cost precision."""


def rotate_stream(model: Model, generator: torch.Generator) -> int:
    """Turn the residual stream of an attached model's encoder; returns its width.

    Raises:
        UsageError: a layer norm has a weight close to zero, so that it cannot be moved into the next layer.
    """
    stream = encoder_of(model).stream()
    for path, norm, _ in stream.readers:
        size = norm.weight.abs()
        if float(size.min()) < _SMALLEST * float(size.max()):
            raise UsageError(
                f"folds.residual_rotation: {path} has a weight close to zero; "
                "switch this fold off for this model"
            )
    width = int(stream.last.weight.shape[1])
    rotation = keeping_the_mean(width, generator).to(model.device)
    for _, norm, layer in stream.readers:
        weight = norm.weight.data.double()
        _write(layer.weight, (layer.weight.data.double() * weight) @ rotation.T)
        _write(norm.bias, rotation @ (norm.bias.data.double() / weight))
        norm.weight.data.fill_(1.0)
    for layer in stream.writers:
        _turn_output(layer, rotation)
    if stream.positions is not None:
        _write(stream.positions, stream.positions.data.double() @ rotation.T)
    columns = stream.last.weight.data.double()
    _write(stream.last.weight, torch.einsum("oihw,ji->ojhw", columns, rotation))
    return width


def _turn_output(layer: Any, rotation: Tensor) -> None:
    weight = layer.weight.data.double()
    _write(layer.weight, (rotation @ weight.flatten(1)).view_as(weight))
    if layer.bias is not None:
        _write(layer.bias, rotation @ layer.bias.data.double())


def _write(parameter: Tensor, value: Tensor) -> None:
    parameter.data.copy_(value)
