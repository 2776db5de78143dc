"""The four tensors of a decoder attention that PCC clips, and the attention map as a function of them.

Targets, in search order: input of the query projection, input of the key projection, query, key. The map
is recomputed from cached tensors: changing the query or key needs no projection at all, changing an input
needs one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from saqsam.families.decoder_attention import QuantDecoderAttention
from saqsam.grids.affine import affine_parameters, affine_round_trip
from saqsam.grids.pieces import CACHED
from saqsam.models.lookup import quantized
from saqsam.modules.layers import QuantizedLayer
from saqsam.modules.quantizer import Quantizer
from saqsam.modules.sampling import spread

QUERY_INPUT, KEY_INPUT, QUERY, KEY = range(4)
Interval = tuple[float, float]
_MANY, _EVERY = 1 << 21, 7
"""Of how many values a sample is sorted, and which."""


@dataclass
class AttentionCase:
    """One attention with the tensors that entered it, and the clips chosen so far.

    Attributes:
        attention: the module.
        query: ``(images, prompts, N_q, C)`` input of the query projection; long query sets are subsampled.
        key: ``(images, prompts, N_k, C)`` input of the key projection. A tensor that is the same for every
            prompt of an image is kept once, with one prompt.
        prompts: how many prompts there are of each image.
        clips: interval of each clipped target.
    """

    attention: QuantDecoderAttention
    query: Tensor
    key: Tensor
    prompts: int
    clips: dict[int, Interval] = field(default_factory=dict)

    @classmethod
    def of(
        cls, attention: QuantDecoderAttention, query: Tensor, key: Tensor, images: int, max_queries: int
    ) -> AttentionCase:
        """Cut the inputs ``(..., tokens, C)`` of one call on ``images`` images down to what the search needs.

        Queries are independent of each other given all keys, so an even subset of at most
        ``max_queries`` of them estimates the same mean at a fraction of the cost.
        """
        query, key = (x.reshape(images, -1, *x.shape[-2:]) for x in (query, key))
        rows = spread(query.shape[2], max_queries, query.device)
        return cls(attention, once_per_image(query[:, :, rows]), once_per_image(key), query.shape[1])

    def quantizer(self, target: int) -> Quantizer | None:
        """The quantizer whose range the target's clip becomes; ``None`` if the recipe left it float."""
        if target in (QUERY_INPUT, KEY_INPUT):
            return self.projection(target).input_quantizer
        quantizers = self.attention.quantizers
        return (quantizers.query, quantizers.key)[target - QUERY]

    def projection(self, target: int) -> QuantizedLayer:
        """The query projection (for QUERY_INPUT) or the key projection (for KEY_INPUT)."""
        return quantized("clip", self.attention.projection_layers[target])

    def tensor(self, target: int) -> Tensor:
        """The unquantized tensor at a target, given the clips of the projections' inputs."""
        if target in (QUERY_INPUT, KEY_INPUT):
            return (self.query, self.key)[target]
        layer = self.projection(target - QUERY)
        x = self.clipped(target - QUERY, (self.query, self.key)[target - QUERY])
        return F.linear(x, layer.weight, layer.bias)

    def clipped(self, target: int, x: Tensor, clip: Interval | None = None) -> Tensor:
        """``x`` through the target's grid: ``clip`` if given, else the clip chosen, else untouched."""
        clip = clip or self.clips.get(target)
        quantizer = self.quantizer(target)
        if clip is None or quantizer is None:
            return x
        low, high = torch.tensor(clip[0]), torch.tensor(clip[1])
        scale, zero_point = affine_parameters(low, high, quantizer.bits)
        return affine_round_trip(x, scale.to(x.device), zero_point.to(x.device), quantizer.bits)

    def parts(self) -> list[AttentionCase]:
        """The same case in pieces that stay in the processor's cache; they share the chosen clips.

        Maps of different prompts do not touch each other, so splitting is exact. The pieces' maps, one
        after the other, are the whole map.
        """
        query, key, prompts = self.query, self.key, self.prompts
        if query.shape[1] == key.shape[1] == prompts:
            query, key, prompts = query.flatten(0, 1)[:, None], key.flatten(0, 1)[:, None], 1
        together = max(1, CACHED // max(query[0].numel(), key[0].numel()))
        pairs = zip(query.split(together), key.split(together), strict=True)
        return [AttentionCase(self.attention, q, k, prompts, self.clips) for q, k in pairs]

    def scores(self, target: int) -> Callable[[Interval | None], Tensor]:
        """Scores before the softmax, ``(images*prompts, heads, N_q, N_k)``, given one target's clip.

        Whatever does not depend on that clip is computed once. ``None`` keeps the target as it stands.
        """
        moving = target % 2
        source, fixed_side = self.tensor(target), QUERY + (1 - moving)
        fixed = self.clipped(fixed_side, self.tensor(fixed_side))

        def at(clip: Interval | None) -> Tensor:
            x = self.clipped(target, source, clip)
            if target in (QUERY_INPUT, KEY_INPUT):
                layer = self.projection(target)
                x = self.clipped(QUERY + moving, F.linear(x, layer.weight, layer.bias))
            pair = (fixed, x) if moving else (x, fixed)
            query, key = (side.expand(-1, self.prompts, -1, -1) for side in pair)
            return self.attention.scores(query, key)

        return at


def once_per_image(x: Tensor) -> Tensor:
    """``(images, prompts, N, C)``; prompts reduced to 1 if all of each image hold the same numbers."""
    same = x.shape[1] > 1 and bool((x[:, 1:2] == x[:, :1]).all()) and bool((x == x[:, :1]).all())
    return x[:, :1].clone() if same else x.clone()


def two_sided_quantiles(x: Tensor, percentiles: tuple[float, ...]) -> list[Interval]:
    """``[quantile(1 - p), quantile(p)]`` for each p, linearly interpolated, from one sort of ``x``.

    Of more than two million values every seventh is sorted: seven divides no width of any SAM, so every
    channel is looked at alike, and the outermost candidate still has some twenty values beyond it.
    """
    flat = x.detach().flatten()
    every = _EVERY if flat.numel() > _MANY else 1
    values = np.sort(flat[::every].float().cpu().numpy())
    p = np.asarray(percentiles, dtype=np.float64)
    low, high = (_interpolated(values, position) for position in (1.0 - p, p))
    return [(float(a), float(b)) for a, b in zip(low, high, strict=True)]


def _interpolated(values: NDArray[np.float32], fractions: NDArray[np.float64]) -> NDArray[np.float64]:
    position = fractions * (values.size - 1)
    left = np.floor(position).astype(np.int64)
    right = np.minimum(left + 1, values.size - 1)
    weight = position - left
    result: NDArray[np.float64] = values[left] * (1.0 - weight) + values[right] * weight
    return result
