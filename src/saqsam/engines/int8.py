"""``load(file, engine="int8")``: PyTorch with linear layers whose weights are int8 and whose sums are int32.

The layers give the very numbers of the simulation, which multiplies the same whole steps as float32
(:mod:`saqsam.modules.products`), on weights of a quarter of the memory. Attention, the convolutions of the
neck and whatever the recipe leaves float are computed as in the simulation. PyTorch's int8 product runs on
CPUs and on NVIDIA GPUs; on a GPU it has not been tried by us.

On a CPU without VNNI oneDNN, which computes that product for PyTorch, adds two products in 16 bits and lets
them saturate. So it is asked once whether its sums are right; where they are not, whole numbers are
multiplied as float32, exactly.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from saqsam.families.record import Model
from saqsam.modules.layers import QuantLinear
from saqsam.modules.products import WHOLE, has_steps
from saqsam.modules.quantizer import Quantizer

_MIDDLE = 128
_FEWEST_ROWS, _MULTIPLE = 17, 8
"""What the product asks for on a GPU: so many rows, and inner and outer sizes that this divides."""
_EXACT = WHOLE // _MIDDLE**2
"""So many products of two int8 numbers add up exactly in float32, in any order."""


class Int8Linear(nn.Module):
    """``x (..., in) -> (..., out)`` float32, exact sums of whole steps.

    Codes are moved to the middle of int8, ``steps = moved + offset``, and what the offsets add to a sum is
    known beforehand or from the sum of a row.

    Args:
        layer: frozen on affine grids, see :func:`can_convert`; its bias is taken over.
    """

    weight: Tensor
    offset: Tensor
    constant: Tensor

    def __init__(self, layer: QuantLinear) -> None:
        super().__init__()
        inputs, weights = _grids(layer)
        self.input_quantizer, self.weight_quantizer = inputs, weights
        self.bias = layer.bias
        steps = weights.affine.steps(layer.weight).to(torch.int32)
        offset = torch.zeros(len(steps), dtype=torch.int32, device=steps.device)
        if int(steps.abs().max()) >= _MIDDLE:  # 8 bits around a zero point that is far from the middle
            offset = _MIDDLE - weights.affine.zero_point.to(torch.int32).flatten()
        moved = steps - offset[:, None]
        self.input_offset = _MIDDLE - int(inputs.affine.zero_point)
        constant = self.input_offset * (moved.sum(1) + steps.shape[1] * offset)
        self.register_buffer("weight", moved.to(torch.int8))
        self.register_buffer("offset", offset)
        self.register_buffer("constant", constant.to(torch.int32))
        self.moves = bool(offset.any())
        self.exact_on_cpu = is_exact_on_cpu()

    def forward(self, x: Tensor) -> Tensor:
        grid = self.input_quantizer.affine
        steps = grid.steps(self.input_quantizer(x.float()))
        left = steps.sub_(self.input_offset).to(torch.int8).flatten(0, -2)
        rows = len(left)
        if left.is_cuda and rows < _FEWEST_ROWS:
            left = nn.functional.pad(left, (0, 0, 0, _FEWEST_ROWS - rows))
        whole = torch._int_mm if left.is_cuda or self.exact_on_cpu else float_product
        sums = whole(left, self.weight.t())[:rows] + self.constant
        if self.moves:
            sums += left[:rows].sum(1, dtype=torch.int32)[:, None] * self.offset
        product = sums.to(torch.float32).mul_(grid.scale * self.weight_quantizer.affine.scale)
        product = product if self.bias is None else product.add_(self.bias)
        output: Tensor = product.unflatten(0, x.shape[:-1])
        return output


@functools.cache
def is_exact_on_cpu() -> bool:
    """Whether PyTorch's int8 product adds up the largest and smallest numbers right on this CPU."""
    ends = torch.tensor([127, -128], dtype=torch.int8, device="cpu")
    left = ends.repeat_interleave(_FEWEST_ROWS)[:, None].repeat(1, 8 * _MULTIPLE)
    right = ends.repeat_interleave(_MULTIPLE).repeat(8 * _MULTIPLE, 1)
    return torch.equal(torch._int_mm(left, right), float_product(left, right))


def float_product(left: Tensor, right: Tensor) -> Tensor:
    """``left (n, k) @ right (k, m)`` of int8, int32 ``(n, m)``, by sums of float32 that stay exact.

    Also where the caller multiplies in half precision, as the compiled encoder does.
    """
    sums = torch.zeros(len(left), right.shape[1], dtype=torch.int32, device=left.device)
    with torch.autocast(left.device.type, enabled=False):
        for some, others in zip(left.split(_EXACT, 1), right.split(_EXACT, 0), strict=True):
            sums += (some.float() @ others.float()).to(torch.int32)
    return sums


def _grids(layer: QuantLinear) -> tuple[Quantizer, Quantizer]:
    inputs, weights = layer.input_quantizer, layer.weight_quantizer
    if inputs is None or weights is None:
        raise TypeError("a layer with a float operand has no integer product")
    return inputs, weights


def can_convert(module: nn.Module) -> bool:
    """Whether this is a linear layer with both operands frozen on affine grids, of sizes that a GPU takes."""
    return (
        isinstance(module, QuantLinear)
        and has_steps(module.input_quantizer)
        and has_steps(module.weight_quantizer)
        and not any(size % _MULTIPLE for size in module.weight.shape)
    )


def convert(model: Model) -> int:
    """Replace linear layers of a frozen model in place; returns how many there were.

    Float copies of their weights go. What is stored is not changed by it: integers came from the file.
    """
    found = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, QuantLinear) and can_convert(module)
    }
    for path, module in found.items():
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, Int8Linear(module))
    return len(found)
