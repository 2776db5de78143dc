"""What a grid is: the values that one quantized tensor may take, and all that the package must know of them.

A grid is a small module whose numbers are buffers, so that they follow the model from device to device. It
does not change: learning makes another one (``with_numbers``), and a quantizer takes it by ``Quantizer.set``.
To add a grid, derive from ``Grid`` or from a grid that is there, and ``register_grid`` it. Its range rule is
that of its base, or one given to ``saqsam.calibrate.rules.register_rule``. A recipe names it in an override.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import torch
from numpy.typing import ArrayLike, DTypeLike
from torch import Tensor, nn

from saqsam.grids.packed import PackedActivation

if TYPE_CHECKING:
    from saqsam.grids.affine import Affine


class Place(enum.Enum):
    """What kind of tensor a grid is for."""

    WEIGHT = "weights"
    MAP = "attention maps, from 0 to 1"
    LINEAR_INPUT = "inputs of linear layers, channels last"
    OTHER = "other activations"


class Writer(Protocol):
    """Where an ONNX graph is written down: every call adds one thing and returns its name."""

    def add(self, op: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """A node with one output."""

    def constant(self, values: ArrayLike, dtype: DTypeLike = ...) -> str:
        """A constant tensor."""


class Grid(nn.Module):
    """``2**bits`` values for one tensor, or for each of its channels or groups of channels.

    Args:
        bits: 2 to 8.

    Attributes:
        name: what recipes and files call it.
        places: the tensors it can be used for; ``place_reason`` completes "the ... grid, which ...".
        range_methods: the range methods it can begin with, the usual one first; empty: any. ``range_reason``
            says why, as a sentence without its full stop.
        granularity: what has a scale of its own, where it is not what the site's kind says.
        lists: whether zero point and detail are lists in a file.
        learnable: whether its numbers can be learned.
        rows_suffice: whether its range is chosen on a few rows of an attention map, with their values.
    """

    name: ClassVar[str]
    places: ClassVar[frozenset[Place]] = frozenset(Place) - {Place.WEIGHT}
    place_reason: ClassVar[str] = "is not for weights"
    range_methods: ClassVar[tuple[str, ...]] = ()
    range_reason: ClassVar[str] = ""
    granularity: ClassVar[str | None] = None
    lists: ClassVar[bool] = False
    learnable: ClassVar[bool] = True
    rows_suffice: ClassVar[bool] = False

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    @classmethod
    def suits(cls, place: Place) -> bool:
        """Whether it can be used for a kind of tensor."""
        return place in cls.places

    def codes(self, x: Tensor) -> Tensor:
        """Codes ``0 .. 2**bits - 1`` of ``x``, same shape; the dtype is each grid's own."""
        raise NotImplementedError

    def values(self, codes: Tensor) -> Tensor:
        """The real numbers that ``codes`` stand for, same shape."""
        raise NotImplementedError

    def round_trip(self, x: Tensor) -> Tensor:
        """``x`` moved to the nearest value of the grid, same shape and dtype; ``x`` itself is not touched."""
        return self.values(self.codes(x)).to(x.dtype)

    def differentiable(self, x: Tensor, mask: Tensor | None = None, numbers: Tensor | None = None) -> Tensor:
        """``round_trip`` with gradients: rounding passes them on as if it were not there, clamping does not.

        Args:
            x: any shape that the grid can be used for.
            mask: bool of ``x``'s shape; where False, ``x`` itself is returned.
            numbers: in place of the grid's own, of the shape of ``numbers()``; gradients reach them.
        """
        raise NotImplementedError

    def numbers(self) -> Tensor:
        """Its float32 numbers, in the order in which a file holds them: a scalar or ``(count,)``."""
        raise NotImplementedError

    def with_numbers(self, numbers: Tensor) -> Self:
        """The same grid with other numbers, of the shape of ``numbers()``."""
        raise NotImplementedError

    def check(self, channels: int | None = None) -> str:
        """What keeps its numbers from being a grid, or nothing.

        Args:
            channels: output channels of the weight it is for; ``None`` for activations.
        """
        raise NotImplementedError

    def bounds(self) -> tuple[float, float]:
        """Smallest and largest value (over all channels)."""
        raise NotImplementedError

    def to_packed(self) -> PackedActivation:
        """As plain numbers; ``from_packed`` gives the grid back, bit for bit."""
        raise NotImplementedError

    @classmethod
    def from_packed(cls, packed: PackedActivation) -> Self:
        """The inverse of ``to_packed``, for numbers that passed ``check_packed``."""
        raise NotImplementedError

    @classmethod
    def check_packed(cls, packed: PackedActivation) -> str:
        """Which rule of the file format the numbers break, or nothing.

        That there are 2 to 8 bits, and that scales are finite and positive, is known.
        """
        raise NotImplementedError

    @classmethod
    def count_numbers(cls, zero_point: int | tuple[int, ...]) -> int:
        """How many float32 numbers a file holds, given the zero point of its row."""
        return len(zero_point) if isinstance(zero_point, tuple) else 1

    def facts(self) -> dict[str, Any]:
        """Its numbers for a reader, in plain JSON types: ``scale``, ``zero_point``, what it has besides."""
        packed = self.to_packed()
        return {"scale": _list(packed.scale), "zero_point": _list(packed.zero_point)}

    def channels(self) -> int | None:
        """How many channels of the tensor (its last dimension) it is made for; ``None``: any number."""
        return None

    def parts(self, x: Tensor) -> Sequence[Tensor]:
        """``x`` in parts that have at most ``2**bits`` different values each once they are on the grid."""
        return [x]

    def unplanned(self, groups: int) -> str:
        """What is beyond a plan of so many groups of channels, or nothing."""
        del groups
        return ""

    def as_affine(self) -> Affine | None:
        """Itself, if its values are one scale times whole steps: then integers can be multiplied."""
        return None

    def levels_each_octave(self) -> int:
        """How many values lie in each halving of a positive number, if so many do and the others are zero;
        else 0."""
        return 0

    def refuse_graph(self) -> str:
        """Why an ONNX graph cannot hold it, completing "is on a ... grid, which ...", or nothing."""
        return "which graphs cannot hold yet"

    def onnx(self, graph: Writer, x: str) -> str:
        """Write ``round_trip`` into a graph: the name of the values nearest to ``x``, float32, same shape."""
        raise NotImplementedError

    def onnx_fast(self, graph: Writer, x: str) -> str:
        """``onnx`` by the fastest operators; the last bit may differ."""
        return self.onnx(graph, x)

    def keep(self, **numbers: Tensor) -> None:
        """Make copies of tensors its buffers.

        They are in the ``state_dict``, so that one of a quantized model cannot be taken for a float one's.
        """
        for name, tensor in numbers.items():
            self.register_buffer(name, tensor.detach().clone())

    def extra_repr(self) -> str:
        return f"{self.name} {self.bits}-bit"


def scale_problem(scale: Tensor, shape: Sequence[int]) -> str:
    """What is wrong with a grid's scales, or nothing."""
    if problem := _shape_problem("scales", scale, shape):
        return problem
    good = bool(torch.isfinite(scale).all()) and bool((scale > 0).all())
    return "" if good else "its scale is not a finite positive number"


def zero_point_problem(zero_point: Tensor, shape: Sequence[int], highest: int) -> str:
    """What is wrong with a grid's zero points, or nothing."""
    if problem := _shape_problem("zero points", zero_point, shape):
        return problem
    good = torch.equal(zero_point, zero_point.round().clamp(0, highest))
    return "" if good else f"its zero point is not an integer in 0..{highest}"


def _shape_problem(what: str, given: Tensor, wanted: Sequence[int]) -> str:
    if tuple(given.shape) == tuple(wanted):
        return ""
    return f"needs {what} of shape {tuple(wanted)}, got {tuple(given.shape)}"


def _list(numbers: float | tuple[float, ...]) -> float | list[float]:
    return list(numbers) if isinstance(numbers, tuple) else numbers
