"""Where the tensors of ResNet, Swin and FocalNet backbones lie in published files."""

from __future__ import annotations

import re

from saqsam.detectors.deformable_names import joined, renamed, split
from saqsam.detectors.weights import Row

_BLOCK = re.compile(
    r"encoder\.stages\.(\d+)\.layers\.(\d+)\.(shortcut|layer\.\d)\.(convolution|normalization)"
)
_SWIN_BLOCK = re.compile(r"swin\.encoder\.layers\.(\d+)\.blocks\.(\d+)\.(.+)")
_SWIN_DOWN = re.compile(r"swin\.encoder\.layers\.(\d+)\.downsample\.(.+)")
_SWIN_NORM = re.compile(r"hidden_states_norms\.stage(\d)")
_QKV = ("q_proj", "k_proj", "v_proj")
_FOCAL_LAYER = re.compile(r"stages\.(\d+)\.layers\.(\d+)\.(.+)")
_FOCAL_DOWN = re.compile(r"stages\.(\d+)\.downsample\.(projection|norm)")
_FOCAL = {
    "modulation.projection_in": "modulation.f",
    "modulation.projection_context": "modulation.h",
    "modulation.projection_out": "modulation.proj",
}


def resnet_row(name: str, start: str) -> Row:
    """A tensor of ``ResNetBackbone``, under torchvision's names after ``start``."""
    *parts, leaf = name.split(".")
    module = ".".join(parts)
    if module == "embedder.embedder.convolution":
        return Row(f"{start}conv1.{leaf}")
    if module == "embedder.embedder.normalization":
        return Row(f"{start}bn1.{leaf}")
    found = _BLOCK.fullmatch(module)
    if found is None:
        raise KeyError(name)
    stage, block, place, kind = found.groups()
    if place == "shortcut":
        inner = f"downsample.{0 if kind == 'convolution' else 1}"
    else:
        inner = ("conv" if kind == "convolution" else "bn") + str(int(place[-1]) + 1)
    return Row(f"{start}layer{int(stage) + 1}.{block}.{inner}.{leaf}")


def swin_row(name: str, start: str) -> Row | None:
    """A tensor of ``SwinBackbone``, under Swin's own names after ``start``; None for one that is not used."""
    module, leaf = split(name)
    if module == "swin.layernorm":
        return None  # of the classifier; detectors normalise each stage instead
    if module == "swin.embeddings.patch_embeddings.projection":
        return Row(f"{start}patch_embed.proj.{leaf}")
    if module == "swin.embeddings.norm":
        return Row(f"{start}patch_embed.norm.{leaf}")
    if found := _SWIN_NORM.fullmatch(module):
        return Row(f"{start}norm{int(found[1]) - 1}.{leaf}")
    if found := _SWIN_DOWN.fullmatch(name):
        return Row(f"{start}layers.{found[1]}.downsample.{found[2]}")
    found = _SWIN_BLOCK.fullmatch(name)
    if found is None:
        raise KeyError(name)
    return _swin_block_row(f"{start}layers.{found[1]}.blocks.{found[2]}", found[3])


def _swin_block_row(block: str, name: str) -> Row:
    if name == "attention.relative_position_bias.relative_position_bias_table":
        return Row(f"{block}.attn.relative_position_bias_table")
    module, leaf = split(name)
    attention, _, projection = module.rpartition(".")
    if attention == "attention" and projection in _QKV:
        return Row(f"{block}.attn.qkv.{leaf}", part=_QKV.index(projection), parts=3)
    names = {"layernorm_before": "norm1", "layernorm_after": "norm2", "attention.o_proj": "attn.proj"}
    return Row(f"{block}.{renamed(name, names)}")


def focalnet_row(name: str, start: str) -> Row:
    """A tensor of :class:`~saqsam.detectors.focalnet.FocalNetMaps`, under FocalNet's own names."""
    module, leaf = split(name)
    if module == "embeddings.patch_embeddings.projection":
        return Row(f"{start}patch_embed.proj.{leaf}")
    if module == "embeddings.norm":
        return Row(f"{start}patch_embed.norm.{leaf}")
    if module.startswith("norms."):
        return Row(f"{start}norm{module.removeprefix('norms.')}.{leaf}")
    if found := _FOCAL_DOWN.fullmatch(module):
        inner = "proj" if found[2] == "projection" else "norm"
        return Row(joined(f"{start}layers.{found[1]}.downsample.{inner}", leaf))
    found = _FOCAL_LAYER.fullmatch(name)
    if found is None:
        raise KeyError(name)
    return Row(f"{start}layers.{found[1]}.blocks.{found[2]}.{renamed(found[3], _FOCAL)}")
