"""The layout of the official ``.pth`` files, and the way from it to ``transformers`` and back.

The files of facebookresearch/segment-anything and ``transformers.SamModel`` hold the same tensors under
different names. The rules below cover full names, each name matches exactly one rule, and every rule is
read in both directions.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import SamModel

from saqsam.errors import CheckpointError
from saqsam.files import atomic_write
from saqsam.modules.quantizer import Quantizer

T = TypeVar("T")

# {i}, {j} stand for a number and {x} for ``weight`` or ``bias``; left official, right transformers.
RULES: tuple[tuple[str, str], ...] = (
    ("image_encoder.pos_embed", "vision_encoder.pos_embed"),
    ("image_encoder.patch_embed.proj.{x}", "vision_encoder.patch_embed.projection.{x}"),
    ("image_encoder.blocks.{i}.norm{j}.{x}", "vision_encoder.layers.{i}.layer_norm{j}.{x}"),
    ("image_encoder.blocks.{i}.attn.qkv.{x}", "vision_encoder.layers.{i}.attn.qkv.{x}"),
    ("image_encoder.blocks.{i}.attn.proj.{x}", "vision_encoder.layers.{i}.attn.proj.{x}"),
    ("image_encoder.blocks.{i}.attn.rel_pos_{axis}", "vision_encoder.layers.{i}.attn.rel_pos_{axis}"),
    ("image_encoder.blocks.{i}.mlp.lin{j}.{x}", "vision_encoder.layers.{i}.mlp.lin{j}.{x}"),
    ("image_encoder.neck.0.weight", "vision_encoder.neck.conv1.weight"),
    ("image_encoder.neck.1.{x}", "vision_encoder.neck.layer_norm1.{x}"),
    ("image_encoder.neck.2.weight", "vision_encoder.neck.conv2.weight"),
    ("image_encoder.neck.3.{x}", "vision_encoder.neck.layer_norm2.{x}"),
    (
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
        "shared_image_embedding.positional_embedding",
    ),
    ("prompt_encoder.point_embeddings.{i}.weight", "prompt_encoder.point_embed.{i}.weight"),
    ("prompt_encoder.not_a_point_embed.weight", "prompt_encoder.not_a_point_embed.weight"),
    ("prompt_encoder.no_mask_embed.weight", "prompt_encoder.no_mask_embed.weight"),
    ("prompt_encoder.mask_downscaling.0.{x}", "prompt_encoder.mask_embed.conv1.{x}"),
    ("prompt_encoder.mask_downscaling.1.{x}", "prompt_encoder.mask_embed.layer_norm1.{x}"),
    ("prompt_encoder.mask_downscaling.3.{x}", "prompt_encoder.mask_embed.conv2.{x}"),
    ("prompt_encoder.mask_downscaling.4.{x}", "prompt_encoder.mask_embed.layer_norm2.{x}"),
    ("prompt_encoder.mask_downscaling.6.{x}", "prompt_encoder.mask_embed.conv3.{x}"),
    ("mask_decoder.{token}.weight", "mask_decoder.{token}.weight"),
    (
        "mask_decoder.transformer.layers.{i}.{attention}.{projection}_proj.{x}",
        "mask_decoder.transformer.layers.{i}.{attention}.{projection}_proj.{x}",
    ),
    (
        "mask_decoder.transformer.layers.{i}.norm{j}.{x}",
        "mask_decoder.transformer.layers.{i}.layer_norm{j}.{x}",
    ),
    (
        "mask_decoder.transformer.layers.{i}.mlp.lin{j}.{x}",
        "mask_decoder.transformer.layers.{i}.mlp.lin{j}.{x}",
    ),
    (
        "mask_decoder.transformer.final_attn_token_to_image.{projection}_proj.{x}",
        "mask_decoder.transformer.final_attn_token_to_image.{projection}_proj.{x}",
    ),
    ("mask_decoder.transformer.norm_final_attn.{x}", "mask_decoder.transformer.layer_norm_final_attn.{x}"),
    ("mask_decoder.output_upscaling.0.{x}", "mask_decoder.upscale_conv1.{x}"),
    ("mask_decoder.output_upscaling.1.{x}", "mask_decoder.upscale_layer_norm.{x}"),
    ("mask_decoder.output_upscaling.3.{x}", "mask_decoder.upscale_conv2.{x}"),
)
# The two small MLP kinds number their layers; the last one's number depends on the depth.
_MLPS = (r"mask_decoder\.iou_prediction_head", r"mask_decoder\.output_hypernetworks_mlps\.\d+")

_FIELDS = {
    "i": r"\d+",
    "j": r"\d",
    "x": r"weight|bias",
    "axis": r"[hw]",
    "token": r"iou_token|mask_tokens",
    "attention": r"self_attn|cross_attn_token_to_image|cross_attn_image_to_token",
    "projection": r"q|k|v|out",
}
POSITIONS = "shared_image_embedding.positional_embedding"
TIED_POSITIONS = "prompt_encoder.shared_embedding.positional_embedding"
CONFIG_KEY = "saqsam_config"
_PIXEL_STATISTICS = ("pixel_mean", "pixel_std")


def is_official(names: Mapping[str, Any]) -> bool:
    """Whether tensor names are those of the official layout."""
    return any(name.startswith("image_encoder.") for name in names)


def to_transformers(state: Mapping[str, T]) -> dict[str, T]:
    """Rename from the official layout to that of ``transformers.SamModel``.

    Args:
        state: official name -> anything.

    Returns:
        New name -> the same things; the positional embedding appears under both of its tied names, and a
        name that no rule knows is kept, so that whoever checks the result can report it. Pixel mean and
        deviation, which some copies carry, are the same for every SAM and are left out.

    Raises:
        ValueError: two names that become one.
    """
    depths = _mlp_depths(state)
    renamed: dict[str, T] = {}
    for name, value in state.items():
        if name in _PIXEL_STATISTICS:
            continue
        new = _renamed(name, _FORWARD) or _mlp_to_transformers(name, depths) or name
        if new in renamed:
            raise ValueError(f"holds '{new}' under two names")
        renamed[new] = value
    if POSITIONS in renamed:
        renamed.setdefault(TIED_POSITIONS, renamed[POSITIONS])
    return renamed


def to_official(state: Mapping[str, T]) -> dict[str, T]:
    """Rename from ``transformers.SamModel`` to the official layout; the inverse of :func:`to_transformers`.

    Raises:
        KeyError: a name that the official layout has no place for.
    """
    official = official_names(state)
    strange = next((name for name in state if name not in official), None)
    if strange is not None:
        raise KeyError(strange)
    return {official[name]: value for name, value in state.items() if name != TIED_POSITIONS}


def official_names(names: Mapping[str, Any]) -> dict[str, str]:
    """``transformers`` name -> official name, for those of ``names`` that the official layout has."""
    depths = _mlp_depths(names)
    found = {name: _renamed(name, _BACKWARD) or _mlp_to_official(name, depths) for name in names}
    found[TIED_POSITIONS] = _renamed(POSITIONS, _BACKWARD)
    return {name: new for name, new in found.items() if new is not None}


def write_official(model: SamModel, path: str | Path) -> None:
    """Write a float model as a ``.pth`` in the official layout, atomically.

    The file is a dictionary of float32 tensors, as the official ones are. The sizes that shapes alone do not
    tell travel in its ``_metadata``, which every ``load_state_dict`` passes over.

    Raises:
        CheckpointError: the model holds tensors that the official layout has no place for, as a quantized
            one does.
    """
    if any(isinstance(module, Quantizer) for module in model.modules()):
        raise CheckpointError(
            path,
            "the official layout has no place for quantized activations",
            "Save a quantized model as packed",
        )
    try:
        named = to_official(model.state_dict())
    except KeyError as error:
        raise CheckpointError(
            path, f"the official layout has no place for {error}", "Only float models are written to it"
        ) from error
    state = OrderedDict((name, _alone(value.detach().float().cpu())) for name, value in named.items())
    state._metadata = {CONFIG_KEY: plain_config(model.config)}  # type: ignore[attr-defined]
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # closing the unfinished archive fails too, and hides why
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise


def _alone(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor with a storage of just its size: torch.save writes the whole storage of a view."""
    tensor = tensor.contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def plain_config(config: Any) -> dict[str, Any]:
    """The sizes of a ``SamConfig`` as plain numbers: ``{"vision_config": {...}, ...}``."""
    return {
        part: {key: _plain(value) for key, value in getattr(config, part).to_dict().items() if key in _SIZES}
        for part in ("vision_config", "prompt_encoder_config", "mask_decoder_config")
    }


_SIZES = frozenset(
    (
        *(
            "hidden_size",
            "hidden_act",
            "layer_norm_eps",
            "num_hidden_layers",
            "num_attention_heads",
            "mlp_dim",
        ),
        *(
            "image_size",
            "patch_size",
            "num_channels",
            "qkv_bias",
            "use_abs_pos",
            "use_rel_pos",
            "window_size",
        ),
        *("global_attn_indexes", "num_pos_feats", "output_channels", "mask_input_channels"),
        *("num_point_embeddings", "attention_downsample_rate", "num_multimask_outputs"),
        *("iou_head_depth", "iou_head_hidden_dim"),
    )
)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _pattern(template: str) -> re.Pattern[str]:
    """A rule's left or right side as an expression for full names."""
    parts = re.split(r"\{(\w+)\}", template)
    return re.compile(
        "".join(f"(?P<{p}>{_FIELDS[p]})" if i % 2 else re.escape(p) for i, p in enumerate(parts))
    )


_FORWARD = tuple((_pattern(official), hub) for official, hub in RULES)
_BACKWARD = tuple((_pattern(hub), official) for official, hub in RULES)


def _renamed(name: str, rules: tuple[tuple[re.Pattern[str], str], ...]) -> str | None:
    for pattern, template in rules:
        match = pattern.fullmatch(name)
        if match:
            return template.format(**match.groupdict())
    return None


def _mlp_depths(names: Mapping[str, Any]) -> dict[str, int]:
    """The highest layer number of each MLP."""
    depths: dict[str, int] = {}
    for name in names:
        match = re.fullmatch(rf"({'|'.join(_MLPS)})\.layers\.(\d+)\.(weight|bias)", name)
        if match:
            depths[match[1]] = max(int(match[2]), depths.get(match[1], 0))
    return depths


def _mlp_to_transformers(name: str, depths: Mapping[str, int]) -> str | None:
    """First and last layer have names of their own; those between count from 0."""
    match = re.fullmatch(rf"({'|'.join(_MLPS)})\.layers\.(\d+)\.(weight|bias)", name)
    if not match:
        return None
    mlp, number, kind = match[1], int(match[2]), match[3]
    if number == 0:
        return f"{mlp}.proj_in.{kind}"
    return f"{mlp}.proj_out.{kind}" if number == depths[mlp] else f"{mlp}.layers.{number - 1}.{kind}"


def _mlp_to_official(name: str, depths: Mapping[str, int]) -> str | None:
    match = re.fullmatch(rf"({'|'.join(_MLPS)})\.(proj_in|proj_out|layers\.(\d+))\.(weight|bias)", name)
    if not match:
        return None
    mlp, kind = match[1], match[4]
    if match[2] == "proj_in":
        return f"{mlp}.layers.0.{kind}"
    between = depths.get(mlp, -1) + 1
    number = between + 1 if match[2] == "proj_out" else int(match[3]) + 1
    return f"{mlp}.layers.{number}.{kind}"
