"""SAM's image encoder on the kernels: tokens stay float between blocks, all within is codes and sums."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from saqsam.families.sam_names import EncoderBlockNames
from saqsam.graphs.source import Source
from saqsam.grids.affine import Affine
from saqsam.native.attention import Attention, Levels, Operands, position_table
from saqsam.native.jobs import NormJob
from saqsam.native.kernels import Kernels, codes_buffer, torch_norm_lanes
from saqsam.native.layer import Columns, Layer, top_of
from saqsam.native.parts import Parts

_NECK_EPSILON = 1e-6


@dataclass(frozen=True)
class Norm:
    """Layer norm, rounded to a grid or left float.

    Attributes:
        kernels: who computes.
        weight, bias: float32 ``(C,)``.
        epsilon: added to the variance.
        grid: what comes out is rounded to, or ``None``.
    """

    kernels: Kernels
    weight: Tensor
    bias: Tensor
    epsilon: float
    grid: Affine | None

    def run(self, x: Tensor) -> Tensor:
        """float32 ``(rows, C)`` to uint8 codes ``(rows, at least C)``, or to float32 without a grid."""
        job = NormJob(rows=x.shape[0], inner=x.shape[1], epsilon=self.epsilon)
        job.x, job.x_stride = x.data_ptr(), x.stride(0)
        job.weight, job.bias = self.weight.data_ptr(), self.bias.data_ptr()
        job.lanes = torch_norm_lanes()
        if self.grid is None:
            out = torch.empty_like(x)
            job.values, job.value_stride = out.data_ptr(), out.stride(0)
        else:
            out = codes_buffer(*x.shape)
            job.out, job.out_stride = out.data_ptr(), out.stride(0)
            job.scale, job.zero = float(self.grid.scale), float(self.grid.zero_point)
            job.top = top_of(self.grid)
        self.kernels.run("norm", job)
        return out


@dataclass(frozen=True)
class Block:
    """One transformer block."""

    before: tuple[Norm, Norm]
    project: Layer
    attention: Attention
    output: Layer
    mlp_in: Layer
    mlp_out: Layer

    def run(self, x: Tensor) -> None:
        """float32 tokens ``(side * side, C)``, in place."""
        tokens, channels = x.shape
        qkv = codes_buffer(tokens, self.project.columns)
        query = torch.empty(tokens, channels) if self.attention.float_query else None
        self.project.run(self.before[0].run(x), values=query, out=qkv)
        gathered = codes_buffer(tokens, channels)
        self.attention.run(qkv, query, gathered)
        del qkv, query
        self.output.run(gathered, values=x, residual=x)
        hidden = codes_buffer(tokens, self.mlp_in.columns)
        self.mlp_in.run(self.before[1].run(x), gelu=True, out=hidden)
        self.mlp_out.run(hidden, values=x, residual=x)


class NativeEncoder:
    """The encoder of a packed model.

    Args:
        source: of a model that ``unsupported`` has nothing against.
        kernels: who computes.
    """

    def __init__(self, source: Source, kernels: Kernels) -> None:
        self._side, self._patch = source.grid, int(source.vision["patch_size"])
        names, build = source.names, _Builder(source, kernels)
        self._patches = (
            build.floats(f"{names.projection}.weight"),
            build.floats(f"{names.projection}.bias"),
        )
        self._positions = build.floats(names.positions) if source.vision["use_abs_pos"] else None
        self.blocks = [build.block(index) for index in range(len(names.blocks))]
        first, second = names.neck_convolutions
        self._first = build.layer(first, None)
        self._second = build.layer(second, None)
        self._middle = build.affine(second)
        self._norms = (
            build.norm(names.neck_norms[0], self._middle, _NECK_EPSILON),
            build.norm(names.neck_norms[1], None, _NECK_EPSILON),
        )
        self._start = build.affine(first)
        self._kernels = kernels

    def encode(self, pixel_values: Tensor) -> Tensor:
        """``(B, 3, S, S)`` float32 to embeddings ``(B, C, g, g)``, one image after the other."""
        return torch.cat([self.neck(self._blocks(self.start(one[None]))) for one in pixel_values])

    def start(self, pixel_values: Tensor) -> Tensor:
        """``(1, 3, S, S)`` to tokens ``(g * g, C)``, by PyTorch, as in the audited model."""
        found = F.conv2d(pixel_values, *self._patches, stride=self._patch).permute(0, 2, 3, 1)
        found = found if self._positions is None else found + self._positions
        return found.flatten(0, 2).contiguous()

    def _blocks(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            block.run(x)
        return x

    def neck(self, x: Tensor) -> Tensor:
        """Tokens ``(g * g, C)`` to the embedding ``(1, C', g, g)``."""
        side, grid = self._side, self._start
        codes = codes_buffer(*x.shape)
        steps = torch.round(x / grid.scale).add_(grid.zero_point).clamp_(0, top_of(grid))
        codes[:, : x.shape[1]] = steps.to(torch.uint8)
        maps = torch.empty(len(x), self._first.columns)
        self._first.run(codes, values=maps)
        codes = self._norms[0].run(maps)
        patches = self._kernels.patches(codes, side, maps.shape[1], int(self._middle.zero_point))
        maps = torch.empty(len(x), self._second.columns)
        self._second.run(patches, values=maps)
        return self._norms[1].run(maps).view(1, side, side, -1).permute(0, 3, 1, 2).contiguous()


class _Builder(Parts):
    """Parts of the encoder from the contents of a packed file."""

    def norm(self, path: str, grid: Affine | None, epsilon: float | None = None) -> Norm:
        """A norm whose values are rounded to ``grid``."""
        epsilon = float(self.source.vision["layer_norm_eps"]) if epsilon is None else epsilon
        return Norm(self.kernels, self.floats(f"{path}.weight"), self.floats(f"{path}.bias"), epsilon, grid)

    def block(self, index: int) -> Block:
        """A transformer block."""
        names = self.source.names.blocks[index]
        (fused,) = names.attention.projections
        width = int(self.source.vision["hidden_size"])
        path = names.attention.path
        operands = Operands(*(self.affine(path, role) for role in ("query", "key", "value")))
        mlp = int(self.source.packed.weights[names.mlp_in].codes.shape[0])
        return Block(
            (
                self.norm(names.norms[0], self.affine(fused)),
                self.norm(names.norms[1], self.affine(names.mlp_in)),
            ),
            self.layer(
                fused, [Columns(grid, width) for grid in (operands.query, operands.key, operands.value)]
            ),
            self.attention(names, operands, index),
            self.layer(names.attention.output, None),
            self.layer(names.mlp_in, [Columns(self.affine(names.mlp_out), mlp)]),
            self.layer(names.mlp_out, None),
        )

    def attention(self, names: EncoderBlockNames, operands: Operands, index: int) -> Attention:
        """What is between a block's projections."""
        vision = self.source.vision
        heads, channels = int(vision["num_attention_heads"]), int(vision["hidden_size"])
        is_global = index in vision["global_attn_indexes"] or not int(vision["window_size"])
        window = self.source.grid if is_global else int(vision["window_size"])
        maps = self.map(names.attention.path)
        (fused,) = names.attention.projections
        bias = f"{fused}.bias"
        outside = self.floats(bias) if self.source.has(bias) else torch.zeros(3 * channels)
        query, key, value = outside.chunk(3)
        codes = [operands.query.codes(query), operands.key.codes(key), operands.value.codes(value)]
        tables = None
        if vision["use_rel_pos"]:
            rows, columns = (position_table(self.floats(name), window) for name in names.tables)
            tables = (rows, columns)
        return Attention(
            self.kernels,
            self.source.grid,
            window,
            heads,
            channels // heads,
            operands,
            maps.as_affine(),
            self.affine(names.attention.output),
            torch.cat(codes).to(torch.uint8),
            tables,
            self.source.packed.recipe.get("rel_pos_query") == "float" and tables is not None,
            Levels.of(maps) if maps.as_affine() is None else None,
        )
