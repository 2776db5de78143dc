"""Directories that ``transformers`` loads: writing them, recognising them, checking them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saqsam.checkpoints.config import checked_config, sections_of
from saqsam.drop_in.names import CARD, CONFIG, METHOD, PROCESSOR, WEIGHTS
from saqsam.drop_in.settings import architecture_of, processor_settings, write_json, write_text
from saqsam.errors import CheckpointError, CorruptCheckpoint, UsageError
from saqsam.families.registry import sizes_of, tell_licence
from saqsam.files import expanded, what_is_there
from saqsam.pack.container import FORMAT_VERSION, SEAL_BYTES
from saqsam.pack.contents import PackedModel
from saqsam.pack.convert import plain_config, to_packed
from saqsam.pack.file import read_packed, write_packed
from saqsam.pack.fit import packed_config

if TYPE_CHECKING:
    from saqsam.sam import Sam

_MAX_CONFIG_BYTES = 1 << 20
_PRIVATE = frozenset(("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures"))
_AGAIN = "Copy or download the whole directory again"


def write_directory(sam: Sam, directory: str | Path) -> None:
    """Write a quantized model as a directory for ``transformers``; see ``Sam.save_pretrained``.

    Raises:
        UsageError: the model is float, or the directory's name is taken by a file.
    """
    from saqsam.drop_in.card import model_card

    directory = Path(directory)
    if sam.quantization is None:
        raise UsageError(f"{sam.name} is a float model: quantize it first, then save it")
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{directory}: this is a file; name a directory")
    if sizes_of(sam.model).preprocessing.spread:
        raise UsageError(
            f"{sam.name}: transformers has no processor that prepares pictures as MedSAM does; "
            "write one packed file instead, with Sam.save"
        )
    directory.mkdir(parents=True, exist_ok=True)
    weights = directory / WEIGHTS
    write_packed(weights, to_packed(sam.model, sam.quantization, sam.records))
    config = plain_config(sam.model)
    config["architectures"] = [architecture_of(sam.model)]
    config["dtype"] = "float32"
    config["quantization_config"] = {
        "quant_method": METHOD,
        "recipe": sam.quantization.name,
        "bits": sam.bits,
        "format": FORMAT_VERSION,
        "sha256": _seal(weights),
    }
    write_json(directory / PROCESSOR, processor_settings(sam.model))
    write_text(directory / CARD, model_card(sam, weights.stat().st_size))
    # Last, because it makes the directory a model: a crash before leaves one that is refused.
    write_json(directory / CONFIG, config)
    tell_licence(sam.model, directory)


def packed_file(source: str | Path) -> Path | None:
    """The packed file of a directory that calls itself a saqsam model; ``None`` for anything else.

    Raises:
        CheckpointError: it calls itself one but has no packed file, or one that lies elsewhere.
        CorruptCheckpoint: configuration and packed file do not belong together.
    """
    directory = expanded(source)
    config = _config_of(directory)
    quantization = config.get("quantization_config")
    if not isinstance(quantization, dict) or quantization.get("quant_method") != METHOD:
        return None
    path = directory / WEIGHTS
    read_verified(path, config, quantization.get("sha256"))
    return path


def read_verified(path: Path, config: Mapping[str, Any], sha256: object) -> PackedModel:
    """Contents of the packed file of a directory, after everything was seen to belong together.

    Args:
        path: the packed file.
        config: what ``config.json`` holds.
        sha256: what ``quantization_config`` says the file's seal is.

    Raises:
        CheckpointError: the file is missing or is a link that leads out of its directory.
        CorruptCheckpoint: a hash disagrees, or the configuration is another model's.
    """
    _check_place(path)
    packed = read_packed(path)
    if sha256 != _seal(path):
        raise CorruptCheckpoint(path, f"{CONFIG} beside it was written for another file", _AGAIN)
    own = packed_config(packed, path)
    stored = own.to_dict()
    try:
        given = checked_config(path.with_name(CONFIG), config, quantized=True).to_dict()
    except CheckpointError as error:
        raise CorruptCheckpoint(error.path, error.problem, _AGAIN) from error
    for part in sections_of(own):
        one, other = stored[part], given[part]
        for key in sorted((one.keys() | other.keys()) - _PRIVATE):
            if one.get(key) != other.get(key):
                said, held = f"{other.get(key)!r:.60}", f"{one.get(key)!r:.60}"
                problem = f"{part}.{key} is {said}, the packed file was made with {held}"
                raise CorruptCheckpoint(path.with_name(CONFIG), problem, _AGAIN)
    return packed


def _check_place(path: Path) -> None:
    """The file itself, or a link inside its directory; the hub's cache keeps files beside its snapshots."""
    if not path.is_file():
        raise CheckpointError(path, what_is_there(path), _AGAIN)
    directory = path.parent.resolve()
    allowed = [directory]
    if directory.parent.name == "snapshots":
        allowed.append(directory.parent.parent / "blobs")
    if not any(path.resolve().is_relative_to(place) for place in allowed):
        raise CheckpointError(path, "is a link that leads out of its directory", "Put the file itself there")


def _config_of(directory: Path) -> dict[str, Any]:
    """``config.json``, or nothing where there is none that can be read: others then say what is wrong."""
    path = directory / CONFIG
    try:
        if not path.is_file() or path.stat().st_size > _MAX_CONFIG_BYTES:
            return {}
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def _seal(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(-SEAL_BYTES, 2)
        return file.read(SEAL_BYTES).hex()
