"""Attention of the mask decoder, between the image and the tokens of each prompt."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saqsam.families.record import Attention as AttentionNames
from saqsam.grids.affine import Affine
from saqsam.grids.grid import Grid
from saqsam.native.attention import Levels, Operands
from saqsam.native.jobs import CrossJob
from saqsam.native.kernels import Kernels, codes_buffer, torch_lanes
from saqsam.native.layer import Columns, Layer, rounded, top_of
from saqsam.native.parts import Parts


@dataclass(frozen=True)
class Projection:
    """A layer, and the grid of what comes in.

    Attributes:
        layer: rounds what comes out if it is a query, a key or a value.
        grid: of what comes in.
    """

    layer: Layer
    grid: Affine

    @classmethod
    def of(cls, parts: Parts, path: str, output: Affine | None = None) -> Projection:
        """A layer of a file; ``output``: what its values are rounded to."""
        columns = len(parts.source.packed.weights[path].codes)
        grids = None if output is None else [Columns(output, columns)]
        return cls(parts.layer(path, grids), parts.affine(path))

    def values(self, x: Tensor) -> Tensor:
        """float32 ``(..., in)`` to float32 ``(..., out)``."""
        rows = x.reshape(-1, x.shape[-1])
        out = torch.empty(len(rows), self.layer.columns)
        self.layer.run(rounded(rows, self.grid), values=out)
        return out.view(*x.shape[:-1], -1)

    def codes(self, x: Tensor) -> Tensor:
        """float32 ``(rows, in)`` to codes ``(rows, at least out)``."""
        out = codes_buffer(len(x), self.layer.columns)
        self.layer.run(rounded(x, self.grid), out=out)
        return out


@dataclass(frozen=True)
class Operand:
    """Codes ``(rows, at least channels)`` and their grid."""

    codes: Tensor
    grid: Affine


@dataclass(frozen=True)
class Crossing:
    """One attention of the decoder.

    Attributes:
        query, key, value, output: its projections.
        heads: of the maps.
        grids: of query, key and value.
        maps: the map's grid.
        levels: of it, if it is logarithmic.
    """

    query: Projection
    key: Projection
    value: Projection
    output: Projection
    heads: int
    grids: Operands
    maps: Grid
    levels: Levels | None

    @classmethod
    def of(cls, parts: Parts, names: AttentionNames) -> Crossing:
        """An attention of a file."""
        grids = Operands(*(parts.affine(names.path, role) for role in ("query", "key", "value")))
        query, key, value = names.projections
        maps = parts.map(names.path)
        return cls(
            Projection.of(parts, query, grids.query),
            Projection.of(parts, key, grids.key),
            Projection.of(parts, value, grids.value),
            Projection.of(parts, names.output),
            int(parts.source.decoder["num_attention_heads"]),
            grids,
            maps,
            Levels.of(maps) if maps.as_affine() is None else None,
        )

    @property
    def channels(self) -> int:
        """Of all heads."""
        return self.query.layer.columns

    @property
    def score_scale(self) -> float:
        """Scores are so many times the sums of products of steps."""
        width = self.channels // self.heads
        return float((self.grids.query.scale.double() * width**-0.5).float() * self.grids.key.scale)

    def among_tokens(self, query: Tensor, value: Tensor) -> Tensor:
        """``(P, T, C)`` float32 of tokens that ask each other, by PyTorch: they are few."""
        steps = [
            self._heads(projection.codes(x.flatten(0, 1)), len(query)) - grid.zero_point
            for projection, x, grid in (
                (self.query, query, self.grids.query),
                (self.key, query, self.grids.key),
                (self.value, value, self.grids.value),
            )
        ]
        scores = torch.matmul(steps[0], steps[1].transpose(-2, -1)).mul_(self.score_scale)
        maps, scale = torch.softmax(scores, dim=-1), self.grids.value.scale
        if (affine := self.maps.as_affine()) is not None:
            gathered = torch.matmul(affine.codes(maps) - affine.zero_point, steps[2])
            gathered.mul_(affine.scale * scale)
        else:
            gathered = self.maps.round_trip(maps) @ (steps[2] * scale)
        return self.output.values(gathered.transpose(1, 2).flatten(2))

    def _heads(self, codes: Tensor, prompts: int) -> Tensor:
        """Codes ``(P * T, at least heads * width)`` to float32 ``(P, heads, T, width)``."""
        rows = codes[:, : self.channels].float().view(prompts, -1, self.heads, self.channels // self.heads)
        return rows.transpose(1, 2)

    def tokens_ask(self, kernels: Kernels, query: Tensor, key: Tensor, value: Tensor, image: int) -> Tensor:
        """What tokens gather from the image, ``(P, T, C)`` float32.

        Args:
            kernels: who computes.
            query: ``(P, T, C)`` float32.
            key, value: codes of the image, ``(P * image or image, at least channels)``.
            image: tokens of it.
        """
        prompts, tokens = query.shape[:2]
        asked = self.query.codes(query.flatten(0, 1))
        job = self._job(
            (prompts, image, tokens), Operand(key, self.grids.key), Operand(asked, self.grids.query), value
        )
        gathered = codes_buffer(prompts * tokens, self.channels)
        job.out, job.out_stride = gathered.data_ptr(), gathered.stride(0)
        kernels.run("tokens_ask", job)
        found = torch.empty(prompts * tokens, self.output.layer.columns)
        self.output.layer.run(gathered, values=found)
        return found.view(prompts, tokens, -1)

    def image_asks(self, query: Tensor, key: Tensor, value: Tensor, sizes: tuple[int, int, int]) -> CrossJob:
        """What the image gathers from tokens, as a part of ``ImageJob``.

        Args:
            query: codes of the image, ``(P * image or image, at least channels)``.
            key, value: codes of the tokens, ``(P * T, at least channels)``.
            sizes: prompts, tokens of the image, tokens of a prompt.
        """
        return self._job(sizes, Operand(query, self.grids.query), Operand(key, self.grids.key), value)

    def _job(self, sizes: tuple[int, int, int], image: Operand, tokens: Operand, value: Tensor) -> CrossJob:
        job = CrossJob(heads=self.heads, width=self.channels // self.heads, lanes=torch_lanes())
        job.prompts, job.image, job.tokens = sizes
        for name, one in (("image", image), ("token", tokens)):
            setattr(job, f"{name}_codes", one.codes.data_ptr())
            setattr(job, f"{name}_stride", one.codes.stride(0))
            setattr(job, f"{name}_zero", int(one.grid.zero_point))
            setattr(job, f"{name}_top", top_of(one.grid))
        job.image_rows = len(image.codes)
        job.values, job.value_stride = value.data_ptr(), value.stride(0)
        job.value_zero, job.score_scale = float(self.grids.value.zero_point), self.score_scale
        self._set_map(job)
        grid = self.output.grid
        job.out_scale, job.out_zero, job.out_top = float(grid.scale), float(grid.zero_point), top_of(grid)
        return job

    def _set_map(self, job: CrossJob) -> None:
        affine, scale = self.maps.as_affine(), self.grids.value.scale
        if affine is not None:
            job.map_scale, job.map_zero, job.map_top = (
                float(affine.scale),
                float(affine.zero_point),
                top_of(affine),
            )
            job.value_factor, job.output_scale = 1.0, float(affine.scale * scale)
        elif self.levels is not None:
            job.map_scale, job.value_factor, job.output_scale = 1.0, float(scale), 1.0
            job.level_limits, job.level_low, job.level_high = (
                table.data_ptr() for table in (self.levels.limits, self.levels.low, self.levels.high)
            )
