"""A ``SamModel`` with the values of a checkpoint, after every name and shape was seen to fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from saqsam.checkpoints.config import check_depths
from saqsam.checkpoints.official import POSITIONS, TIED_POSITIONS, official_names
from saqsam.checkpoints.reading import Checkpoint, StoredTensor
from saqsam.errors import CheckpointError
from saqsam.families.record import Config, Model
from saqsam.families.registry import family_of_config
from saqsam.families.sam_sizes import size_name

_SHOWN = 3
_CONFIG = "Give the config.json that belongs to these weights"
_AGAIN = "Download or export it again"
_TIED = {TIED_POSITIONS: POSITIONS, POSITIONS: TIED_POSITIONS}


def build_model(config: Config, checkpoint: Checkpoint, *, attention: str = "eager") -> Model:
    """A float32 model in eval mode, without gradients, holding the checkpoint's values.

    The model is first laid out without memory; names, shapes and types are compared with it before any
    value is read.

    Args:
        config: the model's sizes.
        checkpoint: tensors under their ``transformers`` names.
        attention: ``eager`` or ``sdpa``, fixed for the encoder when it is built.

    Raises:
        CheckpointError: missing, unexpected or misshapen tensors, or values that are not finite.
    """
    model = _laid_out(config, checkpoint, attention)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tensors = dict(checkpoint.tensors)
    for name, twin in _TIED.items():
        if name not in tensors and twin in tensors:
            tensors[name] = tensors[twin]
    shown = official_names({**wanted, **tensors}) if checkpoint.official else {}
    _check_names(checkpoint, wanted, tensors, shown)
    _check_shapes(checkpoint, wanted, tensors, shown)
    state = {name: _values(checkpoint, tensors[name], shown.get(name, name)) for name in wanted}
    if not torch.equal(state[POSITIONS], state[TIED_POSITIONS]):
        raise CheckpointError(
            checkpoint.path,
            f"'{POSITIONS}' and '{TIED_POSITIONS}' differ; in a SAM they are one tensor",
            _AGAIN,
        )
    state[TIED_POSITIONS] = state[POSITIONS]
    model.load_state_dict(state, strict=True, assign=True)
    model.tie_weights()
    model.train(False)
    model.requires_grad_(False)
    return model


def _laid_out(config: Any, checkpoint: Checkpoint, attention: str) -> Model:
    """The model on the meta device: names and shapes, no memory."""
    check_depths(checkpoint.path, config, len(checkpoint.tensors))
    config._attn_implementation = attention
    config.vision_config._attn_implementation = attention
    try:
        with torch.device("meta"):
            model: Model = family_of_config(config).model_class(config)
            return model
    except (ValueError, TypeError, RuntimeError, ArithmeticError, AttributeError, KeyError) as error:
        raise CheckpointError(checkpoint.path, f"its configuration fits no SAM ({error})", _CONFIG) from error


def _check_names(
    checkpoint: Checkpoint,
    wanted: Mapping[str, Any],
    tensors: Mapping[str, Any],
    shown: Mapping[str, str],
) -> None:
    missing = [shown.get(name, name) for name in wanted if name not in tensors]
    unexpected = sorted(shown.get(name, name) for name in set(tensors) - set(wanted))
    problems = [
        f"{len(names)} tensors are {what} ({_some(names)})"
        for what, names in (("missing", missing), ("unexpected", unexpected))
        if names
    ]
    if problems:
        raise CheckpointError(
            checkpoint.path, " and ".join(problems), "It may be cut short or belong to a changed SAM"
        )


def _check_shapes(
    checkpoint: Checkpoint,
    wanted: Mapping[str, tuple[int, ...]],
    tensors: Mapping[str, StoredTensor],
    shown: Mapping[str, str],
) -> None:
    bad = [name for name, shape in wanted.items() if tensors[name].shape != shape]
    if not bad:
        return
    name = bad[0]
    got, expected = tensors[name].shape, wanted[name]
    name = shown.get(name, name)
    held, asked = size_name({n: t.shape for n, t in tensors.items()}), size_name(wanted)
    more = f" ({len(bad)} tensors in all)" if len(bad) > 1 else ""
    if held != asked:
        raise CheckpointError(
            checkpoint.path,
            f"looks like {held or 'no published size'}, was loaded as {asked or 'no published size'}: "
            f"'{name}' has shape {got}, expected {expected}{more}",
            _CONFIG,
        )
    turned = " (it is transposed)" if got == expected[::-1] else ""
    raise CheckpointError(
        checkpoint.path, f"'{name}' has shape {got}, expected {expected}{turned}{more}", _AGAIN
    )


def _values(checkpoint: Checkpoint, stored: StoredTensor, name: str) -> Tensor:
    """The values as float32 in memory of their own, so that the file is no longer needed."""
    if not stored.dtype.is_floating_point:
        raise CheckpointError(
            checkpoint.path,
            f"'{name}' is stored as {stored.dtype}, not as floating point",
            "Give float weights",
        )
    values = stored.read().to(torch.float32, copy=True).contiguous()
    if not bool(values.isfinite().all()):
        broken = int((~values.isfinite()).sum())
        raise CheckpointError(
            checkpoint.path, f"'{name}' holds {broken} values that are NaN or infinite", _AGAIN
        )
    return values


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if names[_SHOWN:] else "")
