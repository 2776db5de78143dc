"""Architecture of ``small``, the embedded SAM for photographs, and its first weights, grown from ``nano``.

The wider model computes at first what the narrow one computes: channels that are new start at zero in the
residual stream, heads and hidden units that are new start with outputs that nothing adds up, and the layer
norms, which now average over more channels, are rescaled.
"""

from __future__ import annotations

import torch
from nano_config import initialise, nano_config
from torch import Tensor
from transformers import SamConfig, SamModel

HIDDEN, LAYERS, WIDTH = 192, 6, 96
NEW_BLOCK = 1
"""The encoder block that has no counterpart in nano; those behind it move on by one."""

_ZERO = (
    "lin2",
    "out_proj",
    "projection",
    "conv1",
    "conv2",
    "proj_out",
    "upscale_conv1",
    "mask_tokens",
    "iou_token",
)
"""Layers and tables whose new outputs start at zero; other layers start theirs at random."""


def small_config() -> SamConfig:
    return nano_config(HIDDEN, LAYERS, WIDTH)


@torch.no_grad()
def grown(nano: SamModel, seed: int) -> SamModel:
    """A model of ``small``'s size that computes nearly what ``nano`` computes.

    Args:
        nano: the shipped model.
        seed: of the numbers that nothing depends on yet.
    """
    torch.manual_seed(seed)
    model = SamModel._from_config(small_config(), attn_implementation="eager")
    initialise(model)
    _empty_block(model)
    old = nano.state_dict()
    state = model.state_dict()
    for name, value in state.items():
        source = _source(name)
        if source is not None:
            value.copy_(_widened(name, old[source], value))
    model.load_state_dict(state)
    return model


def _source(name: str) -> str | None:
    """The parameter of nano that belongs to one of small's, if there is one."""
    parts = name.split(".")
    if parts[:2] == ["vision_encoder", "layers"]:
        number = int(parts[2])
        if number == NEW_BLOCK:
            return None
        parts[2] = str(number - (number > NEW_BLOCK))
    return ".".join(parts)


def _empty_block(model: SamModel) -> None:
    """The inserted block adds nothing at first."""
    block = model.vision_encoder.layers[NEW_BLOCK]
    for layer in (block.attn.proj, block.mlp.lin2):
        layer.weight.zero_()
        layer.bias.zero_()


def _widened(name: str, old: Tensor, random: Tensor) -> Tensor:
    """``old`` in its place in a tensor of the shape of ``random``."""
    layer, _, kind = name.rpartition(".")
    places = [
        _places(layer, axis, *sizes) for axis, sizes in enumerate(zip(old.shape, random.shape, strict=True))
    ]
    inside = torch.meshgrid(*places, indexing="ij")
    if "layer_norm" in layer:
        new = torch.ones_like(random) if kind == "weight" else torch.zeros_like(random)
        new[inside] = old
        return new * (len(old) / len(random)) ** 0.5 if kind == "weight" else new
    leaf = layer.rpartition(".")[2]
    if kind == "positional_embedding":
        new = random.clone()
    elif leaf in _ZERO or kind == "pos_embed" or "prompt_encoder" in layer or layer.endswith("attn.proj"):
        new = torch.zeros_like(random)
    else:  # what was there does not read what is new
        new = random.clone()
        if new.ndim > 1:
            inputs = 0 if leaf == "upscale_conv2" else 1
            fresh = torch.ones(new.shape[inputs], dtype=torch.bool)
            fresh[places[inputs]] = False
            rows, columns = torch.meshgrid(places[1 - inputs], torch.nonzero(fresh).flatten(), indexing="ij")
            new[(rows, columns) if inputs else (columns, rows)] = 0
    if leaf in ("conv1", "conv2") and "neck" in layer:  # the next norm subtracts this mean anyway
        old = old - old.mean(0, keepdim=True)
    if leaf == "upscale_conv1":
        old = old - old.mean(1 if kind == "weight" else 0, keepdim=True)
    new[inside] = old
    return new


def _places(layer: str, axis: int, old: int, new: int) -> Tensor:
    """Where the old channels of one axis lie among the new ones."""
    part, _, leaf = layer.rpartition(".")
    if leaf == "qkv" and axis == 0:
        third = torch.arange(old // 3)
        return torch.cat([third + k * (new // 3) for k in range(3)])
    by_head = part.endswith("self_attn") and axis == (1 if leaf == "out_proj" else 0)
    if (old, new) == (64, WIDTH) and not by_head:  # sines, then cosines, of the position code
        half = torch.arange(old // 2)
        return torch.cat([half, half + new // 2])
    return torch.arange(old)
