"""What a packed file holds, and the rules its contents obey whoever wrote it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from saqsam.grids.affine import Affine, affine_values
from saqsam.grids.packed import PackedActivation as PackedActivation
from saqsam.grids.registry import find_grid

MIN_BITS, MAX_BITS = 2, 8
MAX_CODES = 1 << 31  # of all weights together; SAM-H has 0.64e9
MAX_NAME = 512
FLOAT_DTYPES = {"F16": torch.float16, "F32": torch.float32}
NUMPY_DTYPES = {"F16": "<f2", "F32": "<f4", "U8": "u1"}  # as they lie in the file


class Malformed(Exception):
    """A part of a packed file, or of what is to become one, breaks the format's rules.

    Only used inside :mod:`saqsam.pack`: reading turns it into ``CorruptCheckpoint``, writing into
    ``InvariantError``.
    """

    def __init__(self, where: str, problem: str) -> None:
        self.where, self.problem = where, problem
        super().__init__(f"{where}: {problem}")


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """A weight on an affine grid of its own for each output channel (the first dimension).

    The weight is ``scale * (codes - zero_point)`` in float32, channel by channel.

    Attributes:
        codes: uint8, the weight's own shape ``(out, ...)``, values ``0 .. 2**bits - 1``.
        scale: float32 ``(out,)``, finite and positive, in units of the weight.
        zero_point: uint8 ``(out,)``, values ``0 .. 2**bits - 1``.
        bits: 2 to 8.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor
    bits: int
    grid: ClassVar[str] = Affine.name

    def values(self) -> Tensor:
        """The weight that the codes stand for, float32 of their shape."""
        channels = (-1,) + (1,) * (self.codes.ndim - 1)
        zero_point = self.zero_point.float().view(channels)
        return affine_values(self.codes.float(), self.scale.view(channels), zero_point)


@dataclass(frozen=True, eq=False)
class PackedModel:
    """Everything needed to rebuild a quantized SAM, and to say how it was made.

    Attributes:
        config: ``SamConfig.to_dict()``; plain JSON types.
        recipe: the recipe it was made with; plain JSON types.
        weights: quantized weights by module path (their parameter is ``<path>.weight``).
        activations: activation grids by site name.
        rest: every other parameter or buffer by its name in the state dict; float16 or float32.
        records: what calibration found (site table, clip record, ...); plain JSON types.
    """

    config: dict[str, Any]
    recipe: dict[str, Any]
    weights: dict[str, PackedWeight]
    activations: dict[str, PackedActivation]
    rest: dict[str, Tensor]
    records: dict[str, Any]

    def float_state(self) -> dict[str, Tensor]:
        """Every parameter and buffer as float32, by its name in the state dict; weights from their codes."""
        state = {name: tensor.float() for name, tensor in self.rest.items()}
        return state | {f"{name}.weight": weight.values() for name, weight in self.weights.items()}


def check_contents(packed: PackedModel) -> None:
    """Hold contents against the format's rules; used before writing and after reading.

    That codes fit their width is left to :func:`saqsam.pack.bits.pack`, which looks at all of them.

    Raises:
        Malformed: naming the weight, activation or tensor and the rule it breaks.
    """
    for name, weight in packed.weights.items():
        _check_name(name, "weight")
        _check_weight(name, weight)
    if sum(weight.codes.numel() for weight in packed.weights.values()) > MAX_CODES:
        raise Malformed("weights", f"more than {MAX_CODES} codes in total")
    for name, activation in packed.activations.items():
        _check_name(name, "activation")
        _check_activation(name, activation)
    for name, tensor in packed.rest.items():
        _check_name(name, "float tensor")
        if tensor.dtype not in FLOAT_DTYPES.values():
            raise Malformed(name, f"the float rest is float16 or float32, not {tensor.dtype}")
        if not bool(torch.isfinite(tensor).all()):
            raise Malformed(name, "it holds NaN or infinity")
    both = sorted({f"{name}.weight" for name in packed.weights} & packed.rest.keys())
    if both:
        raise Malformed(both[0], "it is both a quantized weight and a float tensor")


def _check_weight(name: str, weight: PackedWeight) -> None:
    check_bits(name, weight.bits)
    if weight.codes.ndim == 0 or weight.codes.numel() == 0:
        raise Malformed(name, f"a weight has at least one element, not shape {tuple(weight.codes.shape)}")
    out = (weight.codes.shape[0],)
    if weight.scale.dtype != torch.float32 or weight.scale.shape != out:
        raise Malformed(name, f"its scale is not float32 of shape {out}")
    if weight.zero_point.dtype != torch.uint8 or weight.zero_point.shape != out:
        raise Malformed(name, f"its zero point is not uint8 of shape {out}")
    if not bool((torch.isfinite(weight.scale) & (weight.scale > 0)).all()):
        raise Malformed(name, "a scale is not finite and positive")


def _check_activation(name: str, activation: PackedActivation) -> None:
    check_bits(name, activation.bits)
    for scale in activation.scales:
        if not math.isfinite(scale) or scale <= 0:
            raise Malformed(name, f"its scale {scale!r} is not finite and positive")
    kind = find_grid(activation.grid)
    problem = activation.unlawful if kind is None else kind.check_packed(activation)
    if problem:
        raise Malformed(name, problem)


def check_bits(name: str, bits: object) -> None:
    """Refuse a width that is not a whole number from 2 to 8."""
    if type(bits) is not int or not MIN_BITS <= bits <= MAX_BITS:
        raise Malformed(name, f"bits are {MIN_BITS} to {MAX_BITS}, not {bits!r}")


def _check_name(name: str, what: str) -> None:
    # Names end up in tables on terminals, and somebody may one day unpack a file into a directory.
    lawful = 0 < len(name) <= MAX_NAME and name.isprintable()
    if not lawful or "/" in name or "\\" in name or ".." in name:
        raise Malformed(what, f"{name[:40]!r} is no name: 1 to {MAX_NAME} printable characters, no path")
