"""A model with the values of a checkpoint, after every name and shape was seen to fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from saqsam.checkpoints.config import check_depths
from saqsam.checkpoints.reading import Checkpoint, StoredTensor
from saqsam.errors import CheckpointError
from saqsam.families.record import Config, Family, Model
from saqsam.families.registry import family_of_config

_SHOWN = 3
_CONFIG = "Give the config.json that belongs to these weights"
_AGAIN = "Download or export it again"


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
    family = family_of_config(config)
    model = _laid_out(config, checkpoint, attention)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tensors = dict(checkpoint.tensors)
    for stored, twin in family.tied:
        for name, other in ((stored, twin), (twin, stored)):
            if name not in tensors and other in tensors:
                tensors[name] = tensors[other]
    shown = family.layout.official_names({**wanted, **tensors}) if checkpoint.official else {}
    _check_names(checkpoint, wanted, tensors, shown, family)
    _check_shapes(checkpoint, wanted, tensors, shown, family)
    state = {name: _values(checkpoint, tensors[name], shown.get(name, name)) for name in wanted}
    for stored, twin in family.tied:
        if not torch.equal(state[stored], state[twin]):
            problem = f"'{stored}' and '{twin}' differ; in a {family.name} they are one tensor"
            raise CheckpointError(checkpoint.path, problem, _AGAIN)
        state[twin] = state[stored]
    model.load_state_dict(state, strict=True, assign=True)
    family.modules().fill_tables(model)
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
            model: Model = family_of_config(config).modules().model_class(config)
            return model
    except (ValueError, TypeError, RuntimeError, ArithmeticError, AttributeError, KeyError) as error:
        raise CheckpointError(
            checkpoint.path, f"its configuration fits no model ({error})", _CONFIG
        ) from error


def _check_names(
    checkpoint: Checkpoint,
    wanted: Mapping[str, Any],
    tensors: Mapping[str, Any],
    shown: Mapping[str, str],
    family: Family,
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
            checkpoint.path,
            " and ".join(problems),
            f"It may be cut short or belong to a changed {family.name}",
        )


def _check_shapes(
    checkpoint: Checkpoint,
    wanted: Mapping[str, tuple[int, ...]],
    tensors: Mapping[str, StoredTensor],
    shown: Mapping[str, str],
    family: Family,
) -> None:
    bad = [name for name, shape in wanted.items() if tensors[name].shape != shape]
    if not bad:
        return
    name = bad[0]
    got, expected = tensors[name].shape, wanted[name]
    name = shown.get(name, name)
    size_of = family.naming.size_of
    held, asked = size_of({n: t.shape for n, t in tensors.items()}), size_of(wanted)
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
