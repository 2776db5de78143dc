"""A float SAM from wherever it is kept: the package, a file, a directory, the Hugging Face hub."""

from __future__ import annotations

import difflib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from saqsam.checkpoints.build import build_model
from saqsam.checkpoints.config import checked_config
from saqsam.checkpoints.directory import (
    is_index,
    is_shard,
    model_directory,
    read_config,
    read_shards,
    read_weights,
)
from saqsam.checkpoints.official import (
    CONFIG_KEY,
    behead_stored,
    divide_stored,
    join_stored,
    official_layout,
)
from saqsam.checkpoints.reading import Checkpoint, read_checkpoint
from saqsam.checkpoints.within import only_sam
from saqsam.errors import CheckpointError, first_line
from saqsam.families.foreign import is_quantized_state
from saqsam.families.record import Config, Model
from saqsam.families.registry import FAMILIES, family_of_config, family_of_names
from saqsam.files import is_url, what_is_there
from saqsam.models.device import check_device
from saqsam.shipped.names import EMBEDDED_NAMES

_FILE_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors", ".pkl", ".json")
_MODEL = (
    f"A model is {', '.join(EMBEDDED_NAMES)}, a file, a transformers directory, or a hub id with one slash "
    "(also id@revision)"
)
_LONGEST_ID = 96
"""Of a hub id, by the hub's rules; a longer name is not a file that could be asked for either."""


def load_float(source: str | Path, *, device: str = "cpu", attention: str = "eager") -> Model:
    """A float SAM, ready to segment or to be quantized.

    Args:
        source: a model shipped with saqsam (``nano``, ``small``, both with ``-outliers`` too), an official
            ``.pth``, a ``.safetensors`` or ``.bin`` file in either layout (sizes from a ``config.json``
            beside it, else from the shapes), a ``transformers`` directory, the index of its shards, a
            training folder with ``checkpoint-N`` folders (the last one is taken), or a hub id such as
            ``facebook/sam-vit-base``, also with a branch, tag or commit as ``facebook/sam-vit-base@main``.
            Whatever stands before the names of the SAM's tensors, or lies beside them, is left out; a warning
            says what.
        device: where the model goes.
        attention: of models that are not shipped with saqsam: ``eager`` computes the attention maps that
            quantization looks at, ``sdpa`` saves memory.

    Returns:
        The model in eval mode, float32, without gradients, decoder layer norms at 1e-5 as in the published
        code (``transformers`` alone uses 1e-6, which moves mask logits by 1e-4).

    Raises:
        UnsafeCheckpoint, CorruptCheckpoint, CheckpointError: with the file, what is wrong and what to do.
        UsageError: the device cannot be used on this machine.
    """
    check_device(device)
    model = _load(source, attention)
    nn.Module.to(model, device)
    return model


def _load(source: str | Path, attention: str) -> Model:
    name, path = str(source), Path(source)
    if name in EMBEDDED_NAMES:
        from saqsam.shipped.embedded import embedded_sam

        return embedded_sam(name)
    try:
        path = path.expanduser()
        is_directory, exists = path.is_dir(), path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{name:.200}", f"not a usable path ({first_line(error)})", _MODEL) from error
    if is_directory:
        return _from_directory(path, attention)
    if exists:
        return _from_file(path, attention)
    if _is_hub_id(name) or is_url(name):
        return _from_directory(Path(at_hand(name)), attention)
    raise _unknown(name)


def at_hand(source: str | Path) -> str | Path:
    """The directory to which a hub id was fetched; anything else as it is.

    Raises:
        CheckpointError: no such model, or no network and no earlier copy of it; or an address on the network.
    """
    from saqsam.checkpoints.hub import fetch

    name = str(source)
    if is_url(name):
        hub_id = re.match(r"https?://huggingface\.co/([\w.-]+/[\w.-]+)", name)
        instead = f"give '{hub_id[1]}'" if hub_id else "download it first, then give the path of the file"
        raise CheckpointError(
            name, "is an address, and saqsam opens paths and hub ids", f"Instead, {instead}"
        )
    return fetch(*name.split("@")) if _is_hub_id(name) and not Path(name).exists() else source


def _is_hub_id(name: str) -> bool:
    repo, mark, revision = name.partition("@")
    fits = len(repo) <= _LONGEST_ID and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", repo)
    known = re.fullmatch(r"[\w-][\w./-]{0,199}", revision) if mark else not repo.endswith(_FILE_SUFFIXES)
    return bool(fits and known)


def _unknown(name: str) -> CheckpointError:
    close = difflib.get_close_matches(name.lower(), EMBEDDED_NAMES, n=1)
    if close:
        return CheckpointError(name, "no such model", f"Did you mean '{close[0]}'?")
    problem = what_is_there(Path(name).expanduser())
    return CheckpointError(
        name, problem.replace("there is no such file", "no such file or directory"), _MODEL
    )


def _from_file(path: Path, attention: str) -> Model:
    if path.suffix == ".json":
        return _from_index(path, attention)
    checkpoint = _in_transformers_names(read_checkpoint(path, nested=True), is_shard(path))
    beside = path.parent / "config.json"
    _check_name(path, checkpoint)
    if path.suffix == ".safetensors" and beside.is_file():
        config = read_config(beside)
    else:
        config = _derived_config(checkpoint)
    return _model(config, checkpoint, attention)


def _from_index(path: Path, attention: str) -> Model:
    """From the path of ``model.safetensors.index.json`` or its like."""
    if not path.is_file() or not is_index(path):
        raise CheckpointError(
            path,
            "neither weights nor the index of their shards",
            "Give the directory that it lies in, or a file of weights",
        )
    checkpoint = _in_transformers_names(read_shards(path))
    beside = path.parent / "config.json"
    config = read_config(beside) if beside.is_file() else _derived_config(checkpoint)
    return _model(config, checkpoint, attention)


def _from_directory(directory: Path, attention: str) -> Model:
    directory = model_directory(directory)
    config_path = directory / "config.json"
    if not config_path.is_file():
        raise CheckpointError(
            directory,
            "no config.json in it",
            "A transformers directory has one; a weight file is given by its own path",
        )
    config = read_config(config_path)
    checkpoint = _in_transformers_names(read_weights(directory))
    return _model(config, checkpoint, attention)


def _in_transformers_names(checkpoint: Checkpoint, shard: bool = False) -> Checkpoint:
    if str(checkpoint.metadata.get("format", "")).startswith("saqsam"):
        raise CheckpointError(
            checkpoint.path, "a packed saqsam model, not float weights", "Open it with saqsam.load"
        )
    if is_quantized_state(checkpoint.tensors):
        raise CheckpointError(
            checkpoint.path,
            "the state_dict of a quantized saqsam model, which does not say how its values are quantized",
            "In the program that wrote it, save the whole model: Sam.save('model.safetensors'), or "
            "Sam.save_pretrained",
        )
    if shard:
        raise CheckpointError(
            checkpoint.path, "one shard of several", "Give its directory, or the index.json beside it"
        )
    checkpoint = only_sam(checkpoint)
    layout = official_layout(checkpoint.tensors)
    if layout is None:
        return checkpoint
    try:
        tensors = layout.to_transformers(checkpoint.tensors, join_stored, divide_stored, behead_stored)
    except ValueError as error:
        raise CheckpointError(checkpoint.path, str(error), "Download or export it again") from error
    return replace(checkpoint, tensors=tensors, official=True)


def _check_name(path: Path, checkpoint: Checkpoint) -> None:
    """An official file name that promises another size than the file holds is a mix-up worth stopping for."""
    shapes = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    own = family_of_names(shapes)
    held = own.naming.size_of(shapes)
    for family in FAMILIES:
        said = re.fullmatch(family.naming.files, path.stem)
        if said is None:
            continue
        if family is not own:
            problem = f"its name says {family.name}, its weights are those of {own.name}"
            raise CheckpointError(path, problem, "Rename or replace it")
        if held != said[1]:
            problem = f"its name says {said[1]}, its weights look like {held or 'another size'}"
            raise CheckpointError(path, problem, "Rename or replace it")


def _derived_config(checkpoint: Checkpoint) -> Config:
    told = checkpoint.metadata.get(CONFIG_KEY)
    shapes = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    family = family_of_names(shapes)
    try:
        parts = family.naming.parts(shapes, _tables(told))
    except KeyError as error:
        missing = str(error.args[0])
        shown = family.layout.official_names({**shapes, missing: None}) if checkpoint.official else {}
        raise CheckpointError(
            checkpoint.path,
            f"tensor '{shown.get(missing, missing)}' is missing, without which the model's size is not known",
            family.naming.give,
        ) from error
    except (ValueError, TypeError) as error:
        problem = f"its shapes fit no {family.name} ({error})"
        raise CheckpointError(checkpoint.path, problem, family.naming.give) from error
    return checked_config(checkpoint.path, {"model_type": family.model_types[0], **parts})


def _model(config: Config, checkpoint: Checkpoint, attention: str) -> Model:
    """The model that a configuration and weights make, once they are seen to be of one family."""
    said, held = family_of_config(config), family_of_names(checkpoint.tensors)
    if said is not held:
        raise CheckpointError(
            checkpoint.path,
            f"holds the weights of a {held.name}, the config.json with it describes a {said.name}",
            "Give the config.json that belongs to these weights",
        )
    return build_model(config, checkpoint, attention=attention)


def _tables(told: object) -> dict[str, dict[str, Any]]:
    """The tables of a file's own account of itself, without whatever else it may hold."""
    items = told.items() if isinstance(told, dict) else ()
    return {part: values for part, values in items if isinstance(values, dict)}
