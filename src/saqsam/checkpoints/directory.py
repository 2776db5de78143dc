"""A directory as ``transformers`` writes one: which of its files hold the weights, and what they hold."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

from saqsam.checkpoints.config import checked_config
from saqsam.checkpoints.paths import refuse_placeholder
from saqsam.checkpoints.reading import Checkpoint, StoredTensor, read_checkpoint
from saqsam.errors import CheckpointError
from saqsam.families.record import Config
from saqsam.families.registry import FAMILIES

_WEIGHT_FILES = (
    *("model.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
# Of transformers' variants, such as model.fp16.safetensors and model.safetensors.index.fp16.json; no shards.
_VARIANT = re.compile(
    r"(?:model\.(?P<a>[\w-]+)\.safetensors|model\.safetensors\.index\.(?P<b>[\w-]+)\.json"
    r"|pytorch_model\.(?P<c>[\w-]+)\.bin|pytorch_model\.bin\.index\.(?P<d>[\w-]+)\.json)"
)
_SHARD = re.compile(r".*-\d{5}-of-\d{5}(\.[\w-]+)?")
_STEP = re.compile(r"checkpoint-(\d{1,12})")
_MAX_CONFIG_BYTES = 2**20
_COPY = "Copy the whole directory again"
logger = logging.getLogger("saqsam")


def model_directory(directory: Path) -> Path:
    """The directory itself, or the last ``checkpoint-N`` folder of a training run; a warning says which."""
    if (directory / "config.json").is_file() and weights_in(directory) is not None:
        return directory
    steps = {int(match[1]): path for path in directory.iterdir() if (match := _STEP.fullmatch(path.name))}
    whole = {step: path for step, path in steps.items() if path.is_dir() and (path / "config.json").is_file()}
    if not whole:
        return directory
    last = whole[max(whole)]
    logger.warning(
        "%s: a training folder with %d checkpoints; taking the last one, %s", directory, len(steps), last.name
    )
    return last


def weights_in(directory: Path) -> Path | None:
    """The weight file of a directory, or the index of its shards; ``None`` where there is neither.

    Raises:
        CheckpointError: there are several variants and nothing says which one is meant.
    """
    for name in _WEIGHT_FILES:
        if (directory / name).is_file():
            return directory / name
    variants = {
        path: match for path in sorted(directory.iterdir()) if (match := _VARIANT.fullmatch(path.name))
    }
    words = {word for match in variants.values() for word in match.groups() if word}
    if len(words) > 1:
        raise CheckpointError(
            directory,
            f"holds several variants of its weights ({', '.join(path.name for path in variants)})",
            "Give the path of one of them",
        )
    return min(variants, key=lambda path: (path.suffix != ".safetensors", path.name), default=None)


def read_weights(directory: Path) -> Checkpoint:
    """All tensors of a directory.

    Raises:
        CheckpointError: there are none in it, or they cannot be read.
    """
    found = weights_in(directory)
    if found is None:
        problem = f"no weights in it, none of {', '.join(_WEIGHT_FILES)}"
        raise CheckpointError(directory, problem, "Copy them into it")
    return read_shards(found) if found.suffix == ".json" else read_checkpoint(found, nested=True)


def read_shards(index_path: Path) -> Checkpoint:
    """All shards that an index names, as one checkpoint."""
    shards = read_json(index_path).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(file, str) for file in shards.values()):
        raise CheckpointError(index_path, "has no 'weight_map' of tensor names to files", _COPY)
    tensors: dict[str, StoredTensor] = {}
    size = 0
    for file in sorted(set(shards.values())):
        if Path(file).name != file:
            raise CheckpointError(index_path, f"names a shard outside its directory, '{file}'", _COPY)
        if not (index_path.parent / file).exists():
            raise CheckpointError(index_path, f"names the shard '{file}', which is not beside it", _COPY)
        shard = read_checkpoint(index_path.parent / file)
        twice = sorted(tensors.keys() & shard.tensors.keys())
        if twice:
            raise CheckpointError(index_path, f"the tensor {twice[0]!r} stands in two of its shards", _COPY)
        tensors.update(shard.tensors)
        size += shard.size
    return Checkpoint(index_path, tensors, {}, size=size)


def is_index(path: Path) -> bool:
    """Whether a file is the index of shards, by its content.

    Raises:
        CheckpointError: it cannot be read as JSON.
    """
    return "weight_map" in read_json(path)


def is_shard(path: Path) -> bool:
    """Whether a file's name is that of one shard out of several."""
    return bool(_SHARD.fullmatch(path.stem))


def read_config(path: Path) -> Config:
    """``config.json`` of a model of ``transformers``, checked to be one of a known family."""
    content = read_json(path)
    if not any(content.get("model_type") in family.model_types for family in FAMILIES):
        known = " or ".join(f"'{family.model_types[0]}'" for family in reversed(FAMILIES))
        raise CheckpointError(
            path,
            f"describes a {content.get('model_type')!r:.40}, not a {known}",
            "Give the config.json of such a model",
        )
    return checked_config(path, content)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of bounded size.

    Raises:
        CheckpointError: it is none, or cannot be read.
    """
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            problem = f"larger than the {_MAX_CONFIG_BYTES:,} bytes a configuration may have"
            raise CheckpointError(path, problem, _COPY)
        data = path.read_bytes()
        refuse_placeholder(path, data)
        content = json.loads(data.decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(path, f"not readable as JSON ({error})", _COPY) from error
    if not isinstance(content, dict):
        raise CheckpointError(path, "not a JSON object", _COPY)
    return content
