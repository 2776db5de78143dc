"""A float SAM from wherever it is kept: the package, a file, a directory, the Hugging Face hub."""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Any

import torch
from transformers import SamConfig, SamModel

from saqsam.errors import CheckpointError, UsageError
from saqsam.models.build import build_model
from saqsam.models.checkpoint import Checkpoint, StoredTensor, read_checkpoint
from saqsam.models.config import checked_config
from saqsam.models.foreign import foreign_family
from saqsam.models.geometry import parts_from_shapes, size_name
from saqsam.models.official import CONFIG_KEY, is_official, official_names, to_transformers

EMBEDDED = ("nano", "nano-outliers", "small")
_WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
_FILE_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors", ".pkl")
_OFFICIAL_NAME = re.compile(r"sam_(vit_[blh])(_[0-9a-f]{6})?")
_MODEL = f"A model is {', '.join(EMBEDDED)}, a file, a transformers directory, or a hub id with one slash"
_MAX_CONFIG_BYTES = 2**20
_LONGEST_ID = 96
"""Of a hub id, by the hub's rules; a longer name is not a file that could be asked for either."""
_GIVE_SAM = "Give the weights of a SAM ViT-B, ViT-L or ViT-H, or of one with other sizes"
_COPY = "Copy the whole directory again"


def load_float(source: str | Path, *, device: str = "cpu", attention: str = "eager") -> SamModel:
    """A float SAM, ready to segment or to be quantized.

    Args:
        source: ``nano``, ``nano-outliers`` or ``small`` (shipped with saqsam), an official ``.pth``, a
            ``.safetensors`` or ``.bin`` file in either layout (sizes from a ``config.json`` beside it, else
            from the shapes), a ``transformers`` directory, or a hub id such as ``facebook/sam-vit-base``.
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
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device '{device}': cannot be used here ({_first_line(error)})") from error
    model = _load(source, attention)
    torch.nn.Module.to(model, device)
    return model


def _load(source: str | Path, attention: str) -> SamModel:
    name, path = str(source), Path(source)
    if name in EMBEDDED:
        from saqsam.models.embedded import embedded_sam

        return embedded_sam(name)
    try:
        path = path.expanduser()
        is_directory, exists = path.is_dir(), path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{name:.200}", f"not a usable path ({_first_line(error)})", _MODEL) from error
    if is_directory:
        return _from_directory(path, attention)
    if exists:
        return _from_file(path, attention)
    if _is_hub_id(name):
        return _from_directory(Path(at_hand(name)), attention)
    raise _unknown(name)


def at_hand(source: str | Path) -> str | Path:
    """The directory to which a hub id was fetched; anything else as it is.

    Raises:
        CheckpointError: no such model, or no network and no earlier copy of it.
    """
    from saqsam.models.hub import fetch

    name = str(source)
    return fetch(name) if _is_hub_id(name) and not Path(name).exists() else source


def _is_hub_id(name: str) -> bool:
    fits = len(name) <= _LONGEST_ID and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name)
    return bool(fits) and not name.endswith(_FILE_SUFFIXES)


def _unknown(name: str) -> CheckpointError:
    close = difflib.get_close_matches(name, EMBEDDED, n=1)
    if close:
        return CheckpointError(name, "no such model", f"Did you mean '{close[0]}'?")
    return CheckpointError(name, "no such file or directory", _MODEL)


def _from_file(path: Path, attention: str) -> SamModel:
    checkpoint = _in_transformers_names(read_checkpoint(path))
    beside = path.parent / "config.json"
    _check_name(path, checkpoint)
    if path.suffix == ".safetensors" and beside.is_file():
        config = _read_config(beside)
    else:
        config = _derived_config(checkpoint)
    return build_model(config, checkpoint, attention=attention)


def _from_directory(directory: Path, attention: str) -> SamModel:
    config_path = directory / "config.json"
    if not config_path.is_file():
        raise CheckpointError(
            directory,
            "no config.json in it",
            "A transformers directory has one; a weight file is given by its own path",
        )
    config = _read_config(config_path)
    found = next((name for name in _WEIGHT_FILES if (directory / name).is_file()), None)
    if found is None:
        raise CheckpointError(
            directory, f"no weights in it, none of {', '.join(_WEIGHT_FILES)}", "Copy them into it"
        )
    if found.endswith(".json"):
        checkpoint = _read_shards(directory / found)
    else:
        checkpoint = read_checkpoint(directory / found)
    return build_model(config, _in_transformers_names(checkpoint), attention=attention)


def _in_transformers_names(checkpoint: Checkpoint) -> Checkpoint:
    if str(checkpoint.metadata.get("format", "")).startswith("saqsam"):
        raise CheckpointError(
            checkpoint.path, "a packed saqsam model, not float weights", "Open it with saqsam.load"
        )
    family = foreign_family(checkpoint.tensors)
    if family:
        raise CheckpointError(checkpoint.path, f"the weights of {family}, not of the original SAM", _GIVE_SAM)
    if is_official(checkpoint.tensors):
        try:
            tensors = to_transformers(checkpoint.tensors)
        except ValueError as error:
            raise CheckpointError(checkpoint.path, str(error), _GIVE_SAM) from error
        return Checkpoint(checkpoint.path, tensors, checkpoint.metadata, official=True)
    if not any(name.startswith(("vision_encoder.", "mask_decoder.")) for name in checkpoint.tensors):
        some = ", ".join(sorted(checkpoint.tensors)[:3]) or "none"
        raise CheckpointError(
            checkpoint.path, f"not the weights of a SAM (its tensors: {some}, ...)", _GIVE_SAM
        )
    return checkpoint


def _check_name(path: Path, checkpoint: Checkpoint) -> None:
    """An official file name that promises another size than the file holds is a mix-up worth stopping for."""
    said = _OFFICIAL_NAME.fullmatch(path.stem)
    held = size_name({name: tensor.shape for name, tensor in checkpoint.tensors.items()})
    if said and held != said[1]:
        raise CheckpointError(
            path,
            f"its name says {said[1]}, its weights look like {held or 'another size'}",
            "Rename or replace it",
        )


def _derived_config(checkpoint: Checkpoint) -> SamConfig:
    told = checkpoint.metadata.get(CONFIG_KEY)
    shapes = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    try:
        parts = parts_from_shapes(shapes, _tables(told))
    except KeyError as error:
        missing = str(error.args[0])
        shown = official_names({**shapes, missing: None}) if checkpoint.official else {}
        raise CheckpointError(
            checkpoint.path,
            f"tensor '{shown.get(missing, missing)}' is missing, without which the model's size is not known",
            _GIVE_SAM,
        ) from error
    except (ValueError, TypeError) as error:
        raise CheckpointError(checkpoint.path, f"its shapes fit no SAM ({error})", _GIVE_SAM) from error
    return checked_config(checkpoint.path, parts)


def _tables(told: object) -> dict[str, dict[str, Any]]:
    """The tables of a file's own account of itself, without whatever else it may hold."""
    items = told.items() if isinstance(told, dict) else ()
    return {part: values for part, values in items if isinstance(values, dict)}


def _read_config(path: Path) -> SamConfig:
    """``config.json`` of a ``transformers`` SAM, checked to be one."""
    content = _read_json(path)
    if content.get("model_type") != "sam":
        raise CheckpointError(
            path,
            f"describes a {content.get('model_type')!r:.40}, not a 'sam'",
            "Give the config.json of a SAM",
        )
    return checked_config(path, content)


def _read_shards(index_path: Path) -> Checkpoint:
    """All shards that an index names, as one checkpoint."""
    shards = _read_json(index_path).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(file, str) for file in shards.values()):
        raise CheckpointError(index_path, "has no 'weight_map' of tensor names to files", _COPY)
    tensors: dict[str, StoredTensor] = {}
    for file in sorted(set(shards.values())):
        if Path(file).name != file:
            raise CheckpointError(index_path, f"names a shard outside its directory, '{file}'", _COPY)
        tensors.update(read_checkpoint(index_path.parent / file).tensors)
    return Checkpoint(index_path, tensors, {})


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise CheckpointError(
                path, f"larger than the {_MAX_CONFIG_BYTES:,} bytes a configuration may have", _COPY
            )
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(path, f"not readable as JSON ({error})", _COPY) from error
    if not isinstance(content, dict):
        raise CheckpointError(path, "not a JSON object", _COPY)
    return content


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
