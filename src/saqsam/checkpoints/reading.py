"""Reading tensors from files that nobody vouches for.

A checkpoint is untrusted: a pickle can run code, a header can claim gigabytes, a view can pretend to be
larger than its file. So a file is looked at before it is opened by a library, tensors are described
(:class:`StoredTensor`) before any value is read, and nothing is ever unpickled except by
``torch.load(weights_only=True)``, without a fallback.
"""

from __future__ import annotations

import math
import pickle
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from saqsam.checkpoints.archive import check_records, read_record
from saqsam.checkpoints.legacy import check_legacy
from saqsam.checkpoints.nested import flat_entries, levels
from saqsam.checkpoints.official_files import is_official_file
from saqsam.checkpoints.paths import refuse_placeholder
from saqsam.checkpoints.pickles import refuse_globals, refuse_legacy
from saqsam.errors import CheckpointError, CorruptCheckpoint, UnsafeCheckpoint, first_line
from saqsam.files import what_is_there

MAX_SAFETENSORS_HEADER = 4 * 2**20  # SAM-H needs 0.1 MB; a longer header only costs memory to parse
MAX_PICKLE = 4 * 2**20
MAX_TENSORS = 50_000
MAX_NUMEL = 2**31  # of one tensor; the largest of SAM-H has 6.6 million
_WRAPPERS = ("model", "state_dict", "model_state_dict")
_REDOWNLOAD = "Download or copy it again"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: known by shape and dtype, its values not read yet.

    Attributes:
        shape: its shape.
        dtype: as stored.
        read: returns the values, as stored; called after everything about the file was checked.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of one or several files.

    Attributes:
        path: what the user named.
        tensors: name in the file -> tensor.
        metadata: what else the file says about itself.
        official: whether the file has the official layout, to name its tensors as it does in messages.
        size: of its files in bytes.
        unreadable: name in the file -> why it is no tensor that could be read; only where ``nested``.
        levels: what stands before the names of a dictionary in the file -> what that one says about itself;
            only where ``nested``.
    """

    path: Path
    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, Any]
    official: bool = False
    size: int = 0
    unreadable: Mapping[str, CheckpointError] = field(default_factory=dict)
    levels: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def read_checkpoint(
    path: str | Path, *, also: Sequence[type] = (), legacy: bool = False, nested: bool = False
) -> Checkpoint:
    """Describe the tensors of a ``.pth``/``.pt``/``.bin`` or ``.safetensors`` file, told apart by content.

    A ``{"model": ...}`` or ``{"state_dict": ...}`` around the tensors and a ``module.`` before every name
    are taken off. Every record of a PyTorch archive is held against its checksum, and a file that has the
    name of a published SAM against its hash.

    Args:
        path: the file.
        also: plain classes that a pickle may hold beside tensors, such as a training script's options.
        legacy: read PyTorch's format from before 1.6 too, in which whole model zoos are published.
        nested: take nothing off: describe the tensors of all dictionaries in the file, under flat names, and
            leave it to the caller to choose; see :mod:`saqsam.checkpoints.nested`.

    Raises:
        UnsafeCheckpoint: opening the file would run code stored in it; nothing was run.
        CorruptCheckpoint: empty, truncated, or its parts contradict each other.
        CheckpointError: not a file of tensors at all.
    """
    path = Path(path)
    start = _first_bytes(path)
    if start[:4] == b"PK\x03\x04":
        _check_archive(path, also)
        checkpoint = _read_pickled(path, also, mapped=True, nested=nested)
    elif path.suffix == ".safetensors" or start[8:9] == b"{":
        checkpoint = _read_safetensors(path)
    elif legacy and start[:1] == b"\x80":
        check_legacy(path, MAX_PICKLE, also)
        checkpoint = _read_pickled(path, also, mapped=False, nested=nested)
    elif start[:1] == b"\x80" or path.suffix in (".pth", ".pt", ".bin", ".ckpt", ".pkl"):
        refuse_legacy(path, MAX_PICKLE)
    else:
        raise CheckpointError(
            path, "not a file of weights", "saqsam reads PyTorch .pth files and .safetensors files"
        )
    tensors = checkpoint.tensors if nested else _without_module_prefix(checkpoint.tensors)
    return replace(checkpoint, tensors=tensors, size=path.stat().st_size)


def _first_bytes(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise CheckpointError(path, what_is_there(path), "Give the path of a .pth or .safetensors file")
        with path.open("rb") as file:
            start = file.read(512)
    except (OSError, ValueError) as error:
        raise CheckpointError(path, f"cannot be read ({error})", "Check its path and permissions") from error
    if not start:
        raise CorruptCheckpoint(path, "the file is empty", _REDOWNLOAD)
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        raise CheckpointError(path, "this is a web page, did the download fail?", _REDOWNLOAD)
    refuse_placeholder(path, start)
    return start


def _read_safetensors(path: Path) -> Checkpoint:
    # Eight bytes of length, then that much JSON, which the library would parse however long it is.
    with path.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
    if length > MAX_SAFETENSORS_HEADER:
        raise CorruptCheckpoint(
            path,
            f"its safetensors header claims {length:,} bytes, the limit is {MAX_SAFETENSORS_HEADER:,}",
            _REDOWNLOAD,
        )
    try:
        file: Any = safe_open(path, framework="pt")
        names = list(file.keys())
        metadata = dict(file.metadata() or {})
        tensors = {name: _stored_in_safetensors(path, file, name) for name in names}
    except SafetensorError as error:
        raise CorruptCheckpoint(
            path, f"damaged or truncated safetensors file ({error})", _REDOWNLOAD
        ) from error
    _refuse_too_many(path, len(names))
    return Checkpoint(path, tensors, metadata)


def _stored_in_safetensors(path: Path, file: Any, name: str) -> StoredTensor:
    view = file.get_slice(name)
    shape = tuple(int(side) for side in view.get_shape())
    dtype = _SAFETENSORS_DTYPES.get(view.get_dtype())
    if dtype is None:
        raise CheckpointError(
            path,
            f"tensor '{name}' has type {view.get_dtype()}, which is not a weight's",
            "Give the float weights",
        )
    return StoredTensor(shape, dtype, lambda: file.get_tensor(name))


_SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def _read_pickled(path: Path, also: Sequence[type], *, mapped: bool, nested: bool) -> Checkpoint:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(also)):
            warnings.simplefilter("ignore")
            # Mapped, not read: storages become slices of the file, so none can reach past its end.
            with _named_as_it_is(path) as named:
                content = torch.load(named, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise UnsafeCheckpoint(
            path, f"not a plain dictionary of tensors ({first_line(error)}); nothing was run", _SAVE_STATE
        ) from error
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, EOFError, OSError) as error:
        raise CorruptCheckpoint(path, f"damaged PyTorch file ({first_line(error)})", _REDOWNLOAD) from error
    if nested:
        return _all_levels(path, content)
    state = _unwrapped(path, content)
    metadata = getattr(state, "_metadata", None)
    tensors = {name: _stored_in_zip(path, name, tensor) for name, tensor in state.items()}
    refuse_shared(path, tensors.values(), path.stat().st_size)
    return Checkpoint(path, tensors, metadata if isinstance(metadata, dict) else {})


@contextmanager
def _named_as_it_is(path: Path) -> Iterator[Path]:
    """The file under a name that PyTorch does not take for a safetensors file's, which it goes by."""
    if path.suffix != ".safetensors":
        yield path
        return
    with tempfile.TemporaryDirectory() as scratch:
        link = Path(scratch) / "weights.pth"
        link.symlink_to(path.resolve())
        yield link


def _all_levels(path: Path, content: object) -> Checkpoint:
    """Tensors of all dictionaries in the file; what is none is kept with the reason, in case it is wanted."""
    if not isinstance(content, dict) or not content:
        raise _no_dictionary(path, content)
    tensors: dict[str, StoredTensor] = {}
    unreadable: dict[str, CheckpointError] = {}
    for count, (name, value) in enumerate(flat_entries(content)):
        _refuse_too_many(path, count)
        try:
            tensors[name] = _stored_in_zip(path, name, value)
        except CheckpointError as error:
            unreadable[name] = error
    told = {prefix: getattr(level, "_metadata", None) for prefix, level in levels(content)}
    said = {prefix: metadata for prefix, metadata in told.items() if isinstance(metadata, dict)}
    return Checkpoint(path, tensors, {}, unreadable=unreadable, levels=said)


def _check_archive(path: Path, also: Sequence[type]) -> None:
    """Refuse archives that PyTorch did not write, and pickles that name anything but tensors."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
            if any(name.endswith("/constants.pkl") for name in names):
                raise CheckpointError(path, "a TorchScript program, not a file of weights", _SAVE_STATE)
            if len(pickles) != 1 or len(set(names)) != len(names):
                raise CheckpointError(
                    path, "a zip archive, but not one of PyTorch weights", "Unpack it first"
                )
            _refuse_too_many(path, len(entries))
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise CorruptCheckpoint(
                    path, "its parts are compressed, which PyTorch never does", _REDOWNLOAD
                )
            if pickles[0].file_size > MAX_PICKLE:
                raise CorruptCheckpoint(
                    path,
                    "its table of tensors is far too large for a SAM",
                    f"If its values are arrays of numpy, make them tensors. {_SAVE_STATE}",
                )
            if not is_official_file(path):
                check_records(path, archive)
            refuse_globals(path, read_record(archive, pickles[0]), also)
    except (
        zipfile.BadZipFile,
        EOFError,
        NotImplementedError,
        OSError,
        RuntimeError,
        ValueError,
        struct.error,
    ) as error:
        raise CorruptCheckpoint(path, f"damaged or truncated PyTorch file ({error})", _REDOWNLOAD) from error


_SAVE_STATE = "Save its tensors alone: torch.save(model.state_dict(), 'weights.pth')"


def _unwrapped(path: Path, content: object) -> dict[Any, Any]:
    """The dictionary of tensors, without a training script's dictionary around it."""
    for key in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content:
        raise _no_dictionary(path, content)
    return content


def _no_dictionary(path: Path, content: object) -> CheckpointError:
    kind = "an empty dictionary" if content == {} else f"a {type(content).__name__}"
    problem = f"holds {kind}, not a dictionary of tensors"
    return CheckpointError(path, problem, _SAVE_STATE)


def _stored_in_zip(path: Path, name: object, tensor: object) -> StoredTensor:
    if not isinstance(name, str) or not isinstance(tensor, Tensor):
        kind = type(tensor).__name__
        raise CheckpointError(path, f"entry {name!r:.80} is a {kind}, not a tensor with a name", _SAVE_STATE)
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized or tensor.is_complex():
        raise CheckpointError(path, f"tensor '{name}' is not a plain dense tensor", _SAVE_STATE)
    numel, stored = tensor.numel(), tensor.untyped_storage().nbytes()
    if numel > MAX_NUMEL or (tensor.storage_offset() + numel) * tensor.element_size() > stored:
        raise CorruptCheckpoint(
            path,
            f"tensor '{name}' claims {numel:,} elements but only {stored:,} bytes are stored",
            _REDOWNLOAD,
        )
    return StoredTensor(tuple(tensor.shape), tensor.dtype, lambda: tensor.detach())


def refuse_shared(path: Path, tensors: Iterable[StoredTensor], stored: int) -> None:
    """Tensors may share what is stored, as tied ones do; many sharing one storage would multiply it."""
    claimed = sum(math.prod(tensor.shape) * tensor.dtype.itemsize for tensor in tensors)
    if claimed > 2 * stored:
        raise CorruptCheckpoint(
            path, f"its tensors claim {claimed:,} bytes but the file has {stored:,}", _REDOWNLOAD
        )


def _refuse_too_many(path: Path, count: int) -> None:
    if count > MAX_TENSORS:
        raise CheckpointError(
            path, f"holds {count:,} entries, a SAM has at most a few hundred", "Give the weights of a SAM"
        )


def _without_module_prefix(tensors: Mapping[str, StoredTensor]) -> Mapping[str, StoredTensor]:
    """Names without the ``module.`` that DataParallel puts before every one of them."""
    prefix = "module."
    while tensors and all(name.startswith(prefix) for name in tensors):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors
