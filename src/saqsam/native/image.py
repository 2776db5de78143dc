"""The image's side of the mask decoder: rows that are normed, rounded and projected, a few at a time."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from saqsam.native.crossing import Crossing, Projection
from saqsam.native.jobs import ImageJob
from saqsam.native.kernels import Kernels, codes_buffer, torch_norm_lanes
from saqsam.native.layer import top_of
from saqsam.native.norm import DecoderNorm


@dataclass(frozen=True)
class ImageSide:
    """What a layer sees of the image.

    Attributes:
        tokens: float32 ``(rows, C)``, of one image that all prompts share, or of each prompt's.
        codes: of its keys and values, and of its queries where it asks.
    """

    tokens: Tensor
    codes: tuple[Tensor, ...]

    @classmethod
    def empty(cls, rows: int, channels: int, asked: list[Asked]) -> ImageSide:
        """Room for what a layer asks for."""
        codes = [codes_buffer(rows, one.projection.layer.columns) for one in asked]
        return cls(torch.empty(rows, channels), tuple(codes))


@dataclass(frozen=True)
class Asked:
    """A projection of the image's tokens, and whether their positions are added to what goes in."""

    projection: Projection
    with_positions: bool


@dataclass(frozen=True)
class ImageStep:
    """From one layer's image to the next one's.

    Attributes:
        kernels: who computes.
        positions: float32 ``(g * g, C)``.
        asked: what the next layer projects, at most three.
        crossing: the attention by which the image asks, or ``None`` before the first layer.
        norm: that follows it.
    """

    kernels: Kernels
    positions: Tensor
    asked: list[Asked]
    crossing: Crossing | None = None
    norm: DecoderNorm | None = None

    def seen(self, tokens: Tensor) -> ImageSide:
        """What the next layer sees of images as they are, ``(rows, C)``, whole images one after the other."""
        side = ImageSide.empty(len(tokens), tokens.shape[1], self.asked)
        job = self._job(len(tokens) // len(self.positions), side)
        job.x = tokens.data_ptr()
        self.kernels.run("image", job)
        return side

    def run(self, side: ImageSide, key: Tensor, value: Tensor, tokens: int, into: ImageSide) -> None:
        """After the image asked tokens.

        Args:
            side: as the layer saw it.
            key, value: codes of tokens, ``(P * tokens, at least channels)``.
            tokens: of each prompt.
            into: of each prompt; may be ``side``.
        """
        if self.crossing is None or self.norm is None:
            raise TypeError("the first image asks nobody")
        prompts, image = len(key) // tokens, len(self.positions)
        job = self._job(prompts, into)
        attention = self.crossing.image_asks(side.codes[2], key, value, (prompts, image, tokens))
        output = self.crossing.output.layer.job(side.codes[2])
        job.attention, job.output = ctypes.pointer(attention), ctypes.pointer(output)
        job.residual, job.residual_rows = side.tokens.data_ptr(), len(side.tokens)
        job.weight, job.bias = self.norm.weight.data_ptr(), self.norm.bias.data_ptr()
        job.epsilon, job.lanes = self.norm.epsilon, torch_norm_lanes()
        self.kernels.run("image", job)

    def _job(self, prompts: int, into: ImageSide) -> ImageJob:
        job = ImageJob(prompts=prompts, rows=len(self.positions), inner=self.positions.shape[1])
        job.positions, job.position_rows = self.positions.data_ptr(), len(self.positions)
        job.values, job.projections = into.tokens.data_ptr(), len(self.asked)
        for entry, one, codes in zip(job.projection, self.asked, into.codes, strict=False):
            grid = one.projection.grid
            entry.layer = ctypes.pointer(one.projection.layer.job(codes, out=codes))
            entry.scale, entry.zero = float(grid.scale), float(grid.zero_point)
            entry.top, entry.with_positions = top_of(grid), int(one.with_positions)
        return job
