"""``load(file, engine=...)``: a ``Sam`` that computes with integers, by ONNX Runtime or by PyTorch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from saqsam.engines.choice import fastest_engine
from saqsam.engines.compiled import compile_encoder
from saqsam.engines.names import AUTO, COMPILED, ENGINES, IN_PYTORCH, NATIVE, ONNXRUNTIME, TORCH
from saqsam.errors import CorruptCheckpoint, UsageError
from saqsam.extras import require_onnx
from saqsam.families.record import Config, Model
from saqsam.families.sam_names import SamNames
from saqsam.graphs.build import OPSETS, build_graphs
from saqsam.graphs.packed_family import packed_family
from saqsam.native.library import LibraryMissing, UnknownLevel
from saqsam.pack.convert import from_packed
from saqsam.pack.file import PackedModel, is_packed, read_packed, write_packed
from saqsam.pack.fit import lay_out
from saqsam.sam import Sam
from saqsam.segment.zoom import own_answering

if TYPE_CHECKING:
    from saqsam.graphs.source import Source
    from saqsam.native.families import ImageEncoder
    from saqsam.native.kernels import Kernels

logger = logging.getLogger("saqsam")


@dataclass
class EngineSam(Sam):
    """A quantized SAM whose ``model`` computes with integers; it segments and is evaluated as any.

    Its masks are those of the simulation up to rounding errors, see ``docs/deployment.md``.
    """

    def to(self, device: str) -> Sam:
        """Itself.

        Raises:
            UsageError: another device than the CPU.
        """
        _check_device(device)
        return self

    def save(self, path: str | Path) -> None:
        """Write the packed file again, atomically."""
        write_packed(path, read_packed(cast(Path, self.file)))

    def inspect(self) -> dict[str, Any]:
        """As of ``Sam``; the packed file is read again for it."""
        file = cast(Path, self.file)
        model, recipe = from_packed(read_packed(file), file)
        return Sam(model, self.name, recipe, self.records, file).inspect()


class PyTorchSam(EngineSam):
    """One whose linear layers are int8 in PyTorch; it goes where PyTorch goes."""

    def to(self, device: str) -> Sam:
        """As of ``Sam``."""
        return Sam.to(self, device)


def load_engine(source: str | Path, engine: str, device: str = "cpu") -> Sam:
    """Build a model that computes with integers from a packed file, in memory.

    Args:
        source: a packed file.
        engine: ``"onnxruntime"``, optimised sessions for the CPU; ``"native"``, saqsam's own
            kernels, see :mod:`saqsam.native`, or where they cannot compute it the next engine, which is said;
            ``"int8"``, PyTorch with linear layers in int8, see :mod:`saqsam.engines.int8`; ``"compiled"``,
            the same with the encoder compiled and its attention in half precision, see
            :mod:`saqsam.engines.compiled`; ``"auto"``, the first of :func:`fastest_engine` that can.
        device: ``"cpu"``; with PyTorch's engines any of PyTorch's.

    Raises:
        UsageError: no such engine, a device it does not compute on, a float model, or onnx is not installed.
        CorruptCheckpoint: the packed file is damaged.
    """
    chosen = fastest_engine(device) if engine == AUTO else engine
    if chosen not in ENGINES:
        raise UsageError(f"engine '{engine}': the engines are {', '.join((AUTO, *ENGINES))}")
    if chosen in (ONNXRUNTIME, NATIVE):
        _check_device(device, chosen)
    path = Path(source).expanduser()
    if not is_packed(path):
        raise UsageError(
            f"{source}: engine '{engine}' runs packed files, written by 'saqsam quantize'; "
            "leave the engine out for a float model"
        )
    packed = read_packed(path)
    told = logging.DEBUG if engine == AUTO else logging.WARNING
    if chosen in (TORCH, *IN_PYTORCH):
        return _load_pytorch(packed, path, str(source), device, chosen)
    try:
        return _load_graphs(packed, path, str(source), chosen, told)
    except UnknownLevel:
        raise
    except UsageError as reason:  # a grid that no graph holds, or nothing that runs one
        if engine not in (AUTO, NATIVE):
            raise
        logger.log(told, "%s: %s; simulated by PyTorch instead", source, reason)
    return _load_pytorch(packed, path, str(source), device, TORCH)


def _load_graphs(packed: PackedModel, path: Path, name: str, engine: str, told: int) -> Sam:
    found = lay_out(packed, path)
    packed = replace(packed, config=found.config.to_dict())
    if engine == NATIVE:
        model, engine = native_or_next(packed, found.config, name, told)
    else:
        model = integer_model(packed, found.config, name)
    own, title = own_answering(name, packed.records), f"{name} ({engine})"
    sam = EngineSam(cast(Model, model), title, found.recipe, packed.records, path, engine=engine)
    return sam.answering_boxes(own.zoom, own.clip_to_box)


def _load_pytorch(packed: PackedModel, path: Path, name: str, device: str, engine: str) -> Sam:
    from saqsam.engines.int8 import convert

    model, recipe = from_packed(packed, path)
    own = own_answering(name, packed.records)
    if engine == TORCH:
        sam = Sam(model, name, recipe, packed.records, path, zoom=own.zoom, clip_to_box=own.clip_to_box)
        return sam.to(device)
    count = convert(model)
    logger.debug(
        "%s: %s, %d linear layers in int8 by PyTorch %s on %s", name, engine, count, torch.__version__, device
    )
    if engine == COMPILED:
        compile_encoder(model)
    title = f"{name} ({engine})"
    sam = PyTorchSam(
        model, title, recipe, packed.records, path, zoom=own.zoom, clip_to_box=own.clip_to_box, engine=engine
    )
    return sam.to(device)


def integer_model(packed: PackedModel, config: Config, name: str) -> Any:
    """Sessions with integer products behind the calls of ``SamModel``.

    Args:
        packed: verified contents of a packed file.
        config: the configuration in it.
        name: what to call the model in messages.

    Raises:
        CorruptCheckpoint: the contents do not fit the configuration.
        UsageError: onnx is not installed.
    """
    require_onnx()
    import onnxruntime

    from saqsam.graphs.exactness import Exactness
    from saqsam.graphs.graph import Graph
    from saqsam.graphs.integer import Integer
    from saqsam.graphs.portable import Portable

    exactness = Exactness()

    def integer(graph: Graph, source: Source) -> Portable:
        return Integer(graph, source, exactness)

    model = sessions_model(packed, config, name, integer)
    logger.debug(
        "%s: integer products by ONNX Runtime %s on the CPU, %d threads; asked of this processor: %s",
        name,
        onnxruntime.__version__,
        torch.get_num_threads(),
        exactness.describe(),
    )
    return model


def native_or_next(
    packed: PackedModel, config: Config, name: str, told: int = logging.WARNING
) -> tuple[Any, str]:
    """A model on saqsam's own kernels, or with integers by ONNX Runtime if these cannot compute it.

    Arguments as of ``integer_model``; ``told``: level at which the log says which engine it became.

    Returns:
        The model and the engine that computes it.
    """
    try:
        return native_model(packed, config, name), NATIVE
    except (Unsupported, LibraryMissing) as reason:
        logger.log(told, "%s: %s; computed by the engine %s instead", name, reason, ONNXRUNTIME)
    return integer_model(packed, config, name), ONNXRUNTIME


class Unsupported(UsageError):
    """A model that the engine ``native`` does not compute."""


def native_model(packed: PackedModel, config: Config, name: str) -> Any:
    """The model on saqsam's own kernels; where they do not compute its decoder, that is by ONNX Runtime.

    Arguments as of ``integer_model``.

    Raises:
        UsageError: the kernels were not built, or do not compute this model's encoder.
    """
    from saqsam.graphs.sam2_source import LevelsSource
    from saqsam.native.decoder import NativeDecoder
    from saqsam.native.model import NativeSam
    from saqsam.native.sam2_model import NativeSam2
    from saqsam.native.supported import unsupported_decoder

    source, kernels, build = native_parts(packed)
    reason = unsupported_decoder(source)
    whole = NativeSam2 if isinstance(source, LevelsSource) else NativeSam
    try:
        encoder = build(source, kernels)
        if reason:
            model = _native_encoder_model(source, config, encoder, name)
        else:
            model = whole(config, encoder, NativeDecoder(source, kernels), name)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise CorruptCheckpoint(name, f"its parts do not fit each other ({error!r})") from error
    logger.debug(
        "%s: on saqsam's own kernels for %s, %d threads%s",
        name,
        kernels.name,
        torch.get_num_threads(),
        f"; the decoder by ONNX Runtime ({reason})" if reason else "",
    )
    return model


def _native_encoder_model(source: Source, config: Config, encoder: ImageEncoder, name: str) -> Any:
    require_onnx()
    from saqsam.graphs.build import build_decoder
    from saqsam.graphs.exactness import Exactness
    from saqsam.graphs.integer import Integer
    from saqsam.graphs.sam2_source import LevelsSource
    from saqsam.native.encoder_model import NativeEncoderSam, NativeEncoderSam2

    exactness = Exactness()
    decoder = build_decoder(
        source, OPSETS[0], lambda graph, own: Integer(graph, own, exactness), full_size=False
    )
    model = NativeEncoderSam2 if isinstance(source, LevelsSource) else NativeEncoderSam
    return model(config, encoder, decoder, source.packed.rest[SamNames.no_mask].numpy(), name)


def native_parts(packed: PackedModel) -> tuple[Source, Kernels, Callable[[Source, Kernels], ImageEncoder]]:
    """What a model on the kernels is built from, these, and who builds its encoder; errors as of
    ``native_model``."""
    from saqsam.native.families import on_kernels
    from saqsam.native.kernels import load_kernels
    from saqsam.native.supported import first_problem

    family = packed_family(packed)
    own = on_kernels(family)
    if own is None:
        raise Unsupported(
            f"engine 'native' does not compute this model (it is of the family {family.name}); "
            "take another engine"
        )
    source = own.source(packed)
    if reason := first_problem(own.problems(source)):
        raise Unsupported(f"engine 'native' does not compute this model ({reason}); take another engine")
    return source, load_kernels(), own.encoder


def sessions_model(packed: PackedModel, config: Config, name: str, maker: Callable[..., Any]) -> Any:
    """Sessions with any arithmetic behind the calls of ``SamModel``."""
    from saqsam.graphs.session import open_session
    from saqsam.graphs.writers import writers_of

    try:
        encoder, decoder = build_graphs(packed, OPSETS[0], maker, full_size=False)
        no_mask = packed.rest[SamNames.no_mask].numpy()
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise CorruptCheckpoint(name, f"its parts do not fit each other ({error!r})") from error
    session = open_session(encoder.SerializeToString(), name, shared_arena=True)
    return writers_of(packed).shared_model(config, session, decoder, no_mask, name)


def _check_device(device: str, engine: str = ONNXRUNTIME) -> None:
    if device != "cpu":
        raise UsageError(f"device '{device}': the engine {engine} computes on the cpu, leave the device out")
