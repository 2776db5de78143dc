"""Attention between prompt tokens and the image, as it is cheapest for many prompts of one image.

SAM's decoder (Kirillov et al. 2023, appendix A) lets P prompts of T tokens each attend to N = g*g image
positions and back. T is about 7 and N is 4096, so whatever is computed for every image position of every
prompt is what decoding costs. Two facts save most of it:

* In the first block the image side is the same for all prompts, so it is projected once for an image.
* A projection of the image side can move to the token side: ``q · (x W_k) = (q W_k^T) · x`` and
  ``A (x W_v) = (A x) W_v``. Between quantizers this would be another function, so only float attention
  does it.

Every class computes what its attention's own ``forward`` does, up to the order of additions; the quantized
ones run the very same operations, so that codes do not change.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from transformers.models.sam.modeling_sam import SamAttention
from transformers.models.sam2.modeling_sam2 import Sam2Attention
from transformers.models.sam_hq.modeling_sam_hq import SamHQAttention

from saqsam.families.decoder_attention import QuantDecoderAttention

_FLOAT: dict[type[nn.Module], str] = {
    SamAttention: "out_proj",
    SamHQAttention: "out_proj",
    Sam2Attention: "o_proj",
}
"""Float attentions, and what each calls the layer that reads the gathered values; nothing else differs."""


class TokensToImage(Protocol):
    """Tokens gather from the image."""

    def __call__(self, query: Tensor, image: Tensor | None) -> Tensor:
        """``query (P, T, C)`` -> ``(P, T, C)``; ``image (P, N, C)``, or None for the shared one."""


class ImageToTokens(Protocol):
    """The image gathers from tokens."""

    def __call__(self, key: Tensor, value: Tensor, image: Tensor | None) -> Tensor:
        """``key``, ``value (P, T, C)`` -> ``(P, N, C)``; ``image`` as in :class:`TokensToImage`."""


def tokens_to_image(attention: nn.Module, positions: Tensor, shared: Tensor | None) -> TokensToImage:
    """The cheapest form of a token-to-image attention.

    Args:
        attention: one that :func:`is_known` accepts.
        positions: ``(1, N, C)`` codes of the image positions, added to the image to make keys.
        shared: ``(1, N, C)`` image side that all prompts have in common, or None if each has its own.
    """
    if isinstance(attention, QuantDecoderAttention):
        return _QuantTokensToImage(attention, positions, shared)
    return _FloatTokensToImage(attention, positions, shared)


def image_to_tokens(attention: nn.Module, positions: Tensor, shared: Tensor | None) -> ImageToTokens:
    """The cheapest form of an image-to-token attention; arguments as in :func:`tokens_to_image`."""
    if isinstance(attention, QuantDecoderAttention):
        return _QuantImageToTokens(attention, positions, shared)
    return _FloatImageToTokens(attention, positions, shared)


def is_known(attention: nn.Module) -> bool:
    """True for the attentions whose arithmetic is written down here, exactly these classes."""
    if type(attention) is QuantDecoderAttention:
        return True
    if type(attention) not in _FLOAT:
        return False
    projections = cast(SamAttention, attention)
    layers = (projections.q_proj, projections.k_proj, projections.v_proj, _output_layer(attention))
    return all(type(layer) is nn.Linear for layer in layers)


def _output_layer(attention: nn.Module) -> nn.Linear:
    return cast(nn.Linear, attention.get_submodule(_FLOAT[type(attention)]))


class _QuantTokensToImage:
    def __init__(self, attention: QuantDecoderAttention, positions: Tensor, shared: Tensor | None) -> None:
        self.attention, self.positions = attention, positions
        if shared is not None:
            self.key = attention.project_key((shared + positions)[None])
            self.value = attention.project_value(shared[None])

    def __call__(self, query: Tensor, image: Tensor | None) -> Tensor:
        if image is None:
            query = self.attention.project_query(query[None])
            key, value = (x.expand(-1, query.shape[1], -1, -1) for x in (self.key, self.value))
            return self.attention.attend(query, key, value)[0][0]
        output: Tensor = self.attention(query[None], (image + self.positions)[None], image[None])[0]
        return output[0]


class _QuantImageToTokens:
    def __init__(self, attention: QuantDecoderAttention, positions: Tensor, shared: Tensor | None) -> None:
        self.attention, self.positions = attention, positions
        if shared is not None:
            self.query = attention.project_query((shared + positions)[None])

    def __call__(self, key: Tensor, value: Tensor, image: Tensor | None) -> Tensor:
        if image is None:
            query = self.query.expand(-1, key.shape[0], -1, -1)
            key, value = self.attention.project_key(key[None]), self.attention.project_value(value[None])
            return self.attention.attend(query, key, value)[0][0]
        output: Tensor = self.attention((image + self.positions)[None], key[None], value[None])[0]
        return output[0]


class _FloatTokensToImage:
    def __init__(self, attention: Any, positions: Tensor, shared: Tensor | None) -> None:
        self.attention, self.heads = attention, int(attention.num_attention_heads)
        self.output = _output_layer(attention)
        # With an image of each prompt's own, the positions' share of the keys is still common to all.
        common = positions if shared is None else shared + positions
        self.key = _split(attention.k_proj(common)[0], self.heads)
        if shared is not None:
            self.value = _split(attention.v_proj(shared)[0], self.heads)

    def __call__(self, query: Tensor, image: Tensor | None) -> Tensor:
        query = _split(self.attention.q_proj(query), self.heads) * self.attention.scaling
        scores = _common_product(query, self.key)
        if image is None:
            gathered = _softmax(scores, -1) @ self.value
            return self._out(gathered.transpose(1, 2).flatten(2))
        absorbed = query @ _rows_by_head(self.attention.k_proj, self.heads)
        scores = scores.flatten(1, 2).baddbmm_(absorbed.flatten(1, 2), image.transpose(1, 2))
        gathered = (_softmax(scores, -1) @ image).unflatten(1, (self.heads, -1))
        values = gathered @ _rows_by_head(self.attention.v_proj, self.heads).transpose(1, 2)
        return self._out(values.transpose(1, 2).flatten(2) + self.attention.v_proj.bias)

    def _out(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.output(x))


class _FloatImageToTokens:
    def __init__(self, attention: Any, positions: Tensor, shared: Tensor | None) -> None:
        self.attention, self.heads = attention, int(attention.num_attention_heads)
        self.output_layer = _output_layer(attention)
        common = positions if shared is None else shared + positions
        self.query = _split(attention.q_proj(common)[0], self.heads)

    def __call__(self, key: Tensor, value: Tensor, image: Tensor | None) -> Tensor:
        attention = self.attention
        key = _split(attention.k_proj(key), self.heads) * attention.scaling
        # Scores lie as (P, heads, T, N): softmax over the few tokens then runs along whole image rows.
        scores = _common_product(key, self.query)
        if image is not None:
            absorbed = key @ _rows_by_head(attention.q_proj, self.heads)
            own = torch.bmm(absorbed.flatten(1, 2), image.transpose(1, 2))
            scores = scores.add_(own.unflatten(1, (self.heads, -1)))
        maps = _softmax(scores, 2).flatten(1, 2)
        # (A V) W_out = A (V W_out): the output layer sees T tokens instead of N positions.
        value = _split(attention.v_proj(value), self.heads)
        output = value @ self.output_layer.weight.t().unflatten(0, (self.heads, -1))
        return torch.bmm(maps.transpose(1, 2), output.flatten(1, 2)).add_(self.output_layer.bias)


def _split(x: Tensor, heads: int) -> Tensor:
    """``(..., N, heads*d) -> (..., heads, N, d)``."""
    parts: Tensor = x.unflatten(-1, (heads, -1))
    return parts.transpose(-3, -2)


def _rows_by_head(layer: nn.Linear, heads: int) -> Tensor:
    """The weight ``(heads*d, C)`` as ``(heads, d, C)``."""
    rows: Tensor = layer.weight.unflatten(0, (heads, -1))
    return rows


def _softmax(scores: Tensor, dim: int) -> Tensor:
    """In float32 at least, as ``SamAttention`` does it for models of half precision."""
    wide = torch.promote_types(scores.dtype, torch.float32)
    return torch.softmax(scores, dim, dtype=wide).to(scores.dtype)


def _common_product(tokens: Tensor, common: Tensor) -> Tensor:
    """``tokens (P, heads, T, d)`` times ``common (heads, N, d)`` -> ``(P, heads, T, N)``, contiguous.

    One product for each head over the tokens of all prompts, rather than P copies of ``common``.
    """
    prompts, _, count, _ = tokens.shape
    rows = tokens.transpose(0, 1).flatten(1, 2)
    scores: Tensor = torch.bmm(rows, common.transpose(1, 2)).unflatten(1, (prompts, count))
    return scores.transpose(0, 1).contiguous()
