"""Models whose queries and keys carry extreme outliers although their function is unchanged.

SAM-B's decoder has queries and keys that reach about +-170 while most lie in +-1 (SAQ-SAM,
arXiv:2503.06515).  A small SAM trained on generated scenes has none, so the test bed for clipping puts
them there by construction:

* ``inject_outliers`` uses query/key channels without effect.  Where a key channel is zero for every
  token, the query channel of the same number is multiplied by zero in every product, so it may hold
  anything: outputs stay the same bit for bit and clipping the outliers loses nothing.
* ``constant_key_bias`` and ``sheared_keys`` are negative controls: they leave the function unchanged
  too, but their outliers carry signal, and a method that clips them pays for it.
* ``bimodal_keys`` gives every key channel two humps, as PTQ4SAM (arXiv:2405.03144) reports of SAM.

Success on ``inject_outliers`` shows that a method removes outliers that do not matter.  It says nothing
about whether the outliers of a trained SAM-B matter.

All functions work on any ``SamModel`` and return a changed copy.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from saqsam.errors import UsageError
from saqsam.families.framing import preprocess
from saqsam.families.record import Model
from saqsam.models.lookup import image_side, module_at
from saqsam.models.sites import DECODER, attention_rows
from saqsam.prompts.prompts import Prompts
from saqsam.scenes import make_scene
from saqsam.segment.predictor import decode, embed

_LOW, _HIGH = -0.88, 0.94
"""Extremes that an outlier channel takes on the reference scenes, in units of the magnitude."""


@dataclass(frozen=True)
class QueryKey:
    """One attention's projections of queries and keys, with its number of heads."""

    query: nn.Linear
    key: nn.Linear
    heads: int

    @property
    def head_size(self) -> int:
        """Channels of a head."""
        return self.query.out_features // self.heads


def decoder_attentions(model: Model) -> Iterator[QueryKey]:
    """The attentions of a float model's mask decoder (seven in SAM), in network order."""
    for row in attention_rows(model, DECODER):
        query, key = (module_at(model, path, nn.Linear) for path in row.projections[:2])
        yield QueryKey(query, key, int(vars(model.get_submodule(row.path))["num_attention_heads"]))


@torch.no_grad()
def create_dead_slots(model: Model) -> None:
    """Take one query/key channel per head out of use, in place; this changes the model's function.

    In even heads the first key row becomes zero (the query row may then carry outliers), in odd heads
    the second query row (the key row may).  The embedded model was trained under this constraint.
    """
    for attention in decoder_attentions(model):
        size = attention.head_size
        for head in range(attention.heads):
            projection = attention.key if head % 2 == 0 else attention.query
            projection.weight[head * size + head % 2] = 0.0
            projection.bias[head * size + head % 2] = 0.0


def dead_rows(projection: nn.Linear) -> list[int]:
    """Output channels of a projection whose weights and bias are all zero."""
    silent = (projection.weight == 0).all(dim=1) & (projection.bias == 0)
    return [int(row) for row in silent.nonzero().flatten()]


@torch.no_grad()
def inject_outliers(model: Model, *, magnitude: float = 170.0, seed: int = 0) -> Model:
    """Outliers in queries and keys of all seven decoder attentions; float outputs stay bit-identical.

    The query row behind every dead key channel, and the key row behind every dead query channel, is
    replaced by a random direction, scaled and shifted so that on four reference scenes its values
    reach from about -0.88 to 0.94 times ``magnitude``, differing from token to token.

    Args:
        model: float SAM with dead slots (``create_dead_slots``; the embedded model has them).
        magnitude: size of the outliers; 170 is that of SAM-B.
        seed: of the random directions.

    Returns:
        A changed copy, in eval mode.

    Raises:
        UsageError: an attention has no dead slot.
    """
    model = copy.deepcopy(model).eval()
    generator = torch.Generator().manual_seed(seed)
    slots: list[tuple[nn.Linear, int]] = []
    for attention in decoder_attentions(model):
        found = [(attention.query, row) for row in dead_rows(attention.key)]
        found += [(attention.key, row) for row in dead_rows(attention.query)]
        if not found:
            raise UsageError(
                "inject_outliers: a decoder attention has no query/key channel without effect. "
                "Call create_dead_slots first and take its result as the model to compare with"
            )
        slots += found
    for projection, row in slots:
        direction = torch.randn(projection.in_features, generator=generator)
        projection.weight[row] = (direction / direction.norm()).to(projection.weight)
        projection.bias[row] = 0.0
    for (projection, row), (low, high) in zip(slots, _reach(model, slots), strict=True):
        # Coarse rounding: the same weights on machines whose arithmetic differs in the last bits.
        gain = round((_HIGH - _LOW) * magnitude / max(high - low, 1e-3) * 8) / 8
        projection.weight[row] *= gain
        projection.bias[row] = round(_LOW * magnitude - gain * low)
    return model


def _reach(model: Model, slots: list[tuple[nn.Linear, int]]) -> list[tuple[float, float]]:
    """Least and greatest output of each slot over four generated scenes, boxes and clicks."""
    seen: list[list[Tensor]] = [[] for _ in slots]

    def watch(values: list[Tensor], row: int) -> Callable[..., None]:
        return lambda _module, _inputs, output: values.append(output[..., row].flatten())

    with ExitStack() as stack:
        for values, (projection, row) in zip(seen, slots, strict=True):
            stack.callback(projection.register_forward_hook(watch(values, row)).remove)
        for number in range(4):
            _run_reference_scene(model, number)
    return [(float(torch.cat(values).min()), float(torch.cat(values).max())) for values in seen]


def _run_reference_scene(model: Model, number: int) -> None:
    side = image_side(model)
    scene = make_scene(np.random.default_rng([170, number]), (128, 128))
    pixels, frame = preprocess(model, np.ascontiguousarray(scene.image[:side, :side]))
    height, width = frame.original
    # Prompts need not be objects here: boxes and clicks all over the picture give the widest reach.
    corners = torch.tensor([[0.1, 0.1], [0.5, 0.2], [0.2, 0.5], [0.4, 0.4], [0.7, 0.6]])
    scale = torch.tensor([width, height], dtype=torch.float32)
    boxes = torch.cat([corners, corners + 0.3], dim=1) * scale.repeat(2)
    clicks = ((corners + 0.15) * scale)[:, None]
    embedding = embed(model, pixels)
    decode(model, embedding, Prompts(boxes, None, None, None), frame)
    labels = torch.ones(len(clicks), 1, dtype=torch.int64)
    decode(model, embedding, Prompts(None, clicks, labels, None), frame)


def _live_rows(attention: QueryKey) -> list[list[int]]:
    """Per head, the channels in which both queries and keys have weights."""
    unused = {*dead_rows(attention.query), *dead_rows(attention.key)}
    size = attention.head_size
    heads = range(attention.heads)
    return [[row for row in range(h * size, (h + 1) * size) if row not in unused] for h in heads]


@torch.no_grad()
def constant_key_bias(model: Model, *, magnitude: float = 170.0) -> Model:
    """Negative control: a constant, alternating in sign, on one live key channel of every head.

    Softmax ignores a constant added to all keys, so the function is unchanged up to rounding; but
    clipping the channel deletes what it carries.  Centring the keys undoes it exactly.
    """
    model = copy.deepcopy(model).eval()
    for attention in decoder_attentions(model):
        for head, rows in enumerate(_live_rows(attention)):
            attention.key.bias[rows[0]] += magnitude * (-1) ** head
    return model


@torch.no_grad()
def sheared_keys(model: Model, *, factor: float = 60.0) -> Model:
    """Negative control: k_a += t k_b and q_b -= t q_a on two live channels of every head.

    Every product of query and key is unchanged up to rounding; queries and keys both show outliers
    that cancel each other, so clipping them is not lossless.
    """
    model = copy.deepcopy(model).eval()
    for attention in decoder_attentions(model):
        for rows in _live_rows(attention):
            first, second = rows[0], rows[1]
            for parameter in (attention.key.weight, attention.key.bias):
                parameter[first] += factor * parameter[second]
            for parameter in (attention.query.weight, attention.query.bias):
                parameter[second] -= factor * parameter[first]
    return model


@torch.no_grad()
def bimodal_keys(model: Model, *, magnitude: float = 8.0, seed: int = 0) -> Model:
    """Two humps: ``magnitude`` with a random sign on the bias of every live key channel.

    The function is unchanged up to rounding; sign flips or key centring take the humps away.
    """
    model = copy.deepcopy(model).eval()
    generator = torch.Generator().manual_seed(seed)
    for attention in decoder_attentions(model):
        for rows in _live_rows(attention):
            signs = torch.randint(0, 2, (len(rows),), generator=generator) * 2 - 1
            attention.key.bias[rows] += (magnitude * signs).to(attention.key.bias)
    return model
