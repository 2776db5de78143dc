"""A ``SamConfig`` from numbers that came with a file, after each was seen to make sense.

``transformers`` accepts heads that do not divide the width, a prompt encoder of another image size, a patch
of 0; such a model is built and then fails, or segments wrongly without a word. And a configuration may carry
anything else besides: only the fields listed here are taken from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers.activations import ACT2FN

from saqsam.errors import CheckpointError
from saqsam.families.record import Config
from saqsam.families.sam import SAM

PARTS = SAM.config_parts
_MOST = 2**16  # far above any SAM, and small enough to multiply without care
_MOST_LAYERS = 256  # SAM-H has 32; each takes milliseconds to lay out, even without memory
_PUBLISHED_EPSILON = 1e-5
_HINT = "Give the configuration that belongs to these weights"


def _count(value: object) -> bool:
    return type(value) is int and 1 <= value <= _MOST


def _layers(value: object) -> bool:
    return _count(value) and isinstance(value, int) and value <= _MOST_LAYERS


def _ratio(value: object) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and 0 < value <= _MOST


def _flag(value: object) -> bool:
    return type(value) is bool


def _spread(value: object) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and 0 <= value <= 1


def _epsilon(value: object) -> bool:
    return type(value) is float and 0 < value <= 1e-2


def _activation(value: object) -> bool:
    return isinstance(value, str) and value in ACT2FN


def _indexes(value: object) -> bool:
    return isinstance(value, list | tuple) and all(type(i) is int and 0 <= i < _MOST for i in value)


_FIELDS: dict[str, dict[str, Callable[[object], bool]]] = {
    "vision_config": {
        **dict.fromkeys(("hidden_size", "num_attention_heads", "image_size"), _count),
        **dict.fromkeys(("patch_size", "output_channels", "num_pos_feats"), _count),
        "num_hidden_layers": _layers,
        "initializer_range": _spread,
        "scale": _ratio,  # of no effect; kept so that a model packed again gives the same bytes
        "num_channels": lambda value: value == 3,
        "mlp_dim": lambda value: value is None or _count(value),
        "mlp_ratio": _ratio,
        "window_size": lambda value: value == 0 or _count(value),
        "global_attn_indexes": _indexes,
        "qkv_bias": _flag,
        "use_rel_pos": _flag,
        "use_abs_pos": lambda value: value is True,
        "hidden_act": _activation,
        "layer_norm_eps": _epsilon,
    },
    "prompt_encoder_config": {
        **dict.fromkeys(("hidden_size", "image_size", "patch_size", "mask_input_channels"), _count),
        "num_point_embeddings": lambda value: value == 4,
        "hidden_act": _activation,
        "layer_norm_eps": _epsilon,
    },
    "mask_decoder_config": {
        **dict.fromkeys(("hidden_size", "num_attention_heads", "mlp_dim"), _count),
        **dict.fromkeys(("attention_downsample_rate", "iou_head_hidden_dim"), _count),
        **dict.fromkeys(("num_hidden_layers", "num_multimask_outputs", "iou_head_depth"), _layers),
        "hidden_act": _activation,
        "layer_norm_eps": _epsilon,
    },
}


def checked_config(
    path: str | Path, parts: Mapping[str, object], *, tensors: int | None = None, quantized: bool = False
) -> Config:
    """The configuration that ``parts`` describes: the one way in for every configuration, from any file.

    Args:
        path: the file it came from, for messages.
        parts: ``{"vision_config": {...}, "prompt_encoder_config": {...}, "mask_decoder_config": {...}}``;
            what is left out takes the values of SAM-B, what no SAM has is passed over.
        tensors: how many tensors came with it, more than which there are no layers; ``None`` to look later.
        quantized: keep what it says of the decoder's layer norms: that is what was quantized.

    Returns:
        A configuration whose decoder layer norms use 1e-5 whatever ``parts`` says (unless ``quantized``): the
        published code does, and files saved by ``transformers``' own conversion hold its default instead.

    Raises:
        CheckpointError: a value that no SAM can have, or values that contradict each other.
    """
    taken: dict[str, Any] = {}
    for part in PARTS:
        given = parts.get(part, {})
        if not isinstance(given, Mapping):
            raise CheckpointError(path, f"its {part} is not a table of names and values", _HINT)
        taken[part] = {key: given[key] for key in _FIELDS[part] if key in given}
        for key, value in taken[part].items():
            if not _FIELDS[part][key](value):
                raise CheckpointError(path, f"{part}.{key} is {value!r:.60}, which no SAM can have", _HINT)
    if not quantized:
        taken["mask_decoder_config"]["layer_norm_eps"] = _PUBLISHED_EPSILON
    try:
        config: Any = SAM.config_class(**taken)
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise CheckpointError(path, f"not a valid SAM configuration ({error})", _HINT) from error
    problem = _contradiction(config)
    if problem:
        raise CheckpointError(path, problem, _HINT)
    if tensors is not None:
        check_depths(path, config, tensors)
    checked: Config = config
    return checked


def check_depths(path: str | Path, config: Any, tensors: int) -> None:
    """Even a model without memory takes a while to lay out where it has many layers.

    Raises:
        CheckpointError: the configuration asks for more layers than there are tensors.
    """
    decoder = config.mask_decoder_config
    deepest = max(
        config.vision_config.num_hidden_layers,
        decoder.num_hidden_layers,
        decoder.num_multimask_outputs,
        decoder.iou_head_depth,
    )
    if deepest > tensors:
        problem = f"its configuration asks for {deepest} layers, more than there are tensors"
        raise CheckpointError(path, problem, _HINT)


def _contradiction(config: Any) -> str | None:
    """What is wrong between the values, or None."""
    vision, prompts, decoder = config.vision_config, config.prompt_encoder_config, config.mask_decoder_config
    for name in ("image_size", "patch_size"):
        one, other = getattr(vision, name), getattr(prompts, name)
        if one != other:
            return f"{name} is {one} in the encoder and {other} for prompts, so coordinates would be off"
    inner = decoder.hidden_size // decoder.attention_downsample_rate
    divisions = (
        ("image_size", vision.image_size, "patch_size", vision.patch_size),
        ("the encoder's width", vision.hidden_size, "its number of heads", vision.num_attention_heads),
        ("the decoder's width", decoder.hidden_size, "its downsampling", decoder.attention_downsample_rate),
        ("the decoder's inner width", inner, "its number of heads", decoder.num_attention_heads),
        ("the mask prompt's channels", prompts.mask_input_channels, "4", 4),
    )
    for name, number, divisor_name, divisor in divisions:
        if number % divisor:
            return f"{name} ({number}) is no multiple of {divisor_name} ({divisor})"
    widths = {vision.output_channels, prompts.hidden_size, decoder.hidden_size, 2 * vision.num_pos_feats}
    if len(widths) > 1:
        return f"encoder output, positions, prompts and decoder have different widths {sorted(widths)}"
    if any(index >= vision.num_hidden_layers for index in vision.global_attn_indexes):
        return f"global attention in blocks {vision.global_attn_indexes}, of {vision.num_hidden_layers}"
    return None
