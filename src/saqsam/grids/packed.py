"""A grid as plain numbers: what a packed file holds of the grid of an activation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PackedActivation:
    """The grid of one activation tensor; ``FORMAT.md`` says what each grid's numbers mean.

    Attributes:
        grid: name of the grid, such as ``"affine"``.
        bits: 2 to 8.
        scale: finite and positive, exactly representable in float32; several numbers are a tuple.
        zero_point: the code of zero, or of each group.
        detail: affine: 0. log2: tau. hybrid: logarithmic levels. grouped: the group of each channel.
    """

    grid: str
    bits: int
    scale: float | tuple[float, ...]
    zero_point: int | tuple[int, ...]
    detail: int | tuple[int, ...]

    @property
    def scales(self) -> tuple[float, ...]:
        """The float32 numbers, in the order in which a file holds them."""
        return self.scale if isinstance(self.scale, tuple) else (self.scale,)

    @property
    def unlawful(self) -> str:
        """What to say of numbers that are no grid's."""
        numbers = f"grid {self.grid!r}, zero point {self.zero_point}, tau {self.detail}"
        return f"no {self.bits}-bit grid has {numbers}"
