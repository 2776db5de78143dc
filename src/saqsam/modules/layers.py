"""Linear and convolution layers with a quantizer on their input and one on their weight."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from saqsam.modules.products import exact_linear, has_steps, holds_sums
from saqsam.modules.quantizer import Quantizer, Stage


class QuantizedLayer(nn.Module):
    """What linear and convolution have in common: whose weight is used, and how it is frozen.

    Args:
        layer: the float layer; its ``weight`` and ``bias`` parameters are taken over, not copied.
        input_quantizer: quantizes what comes in, or ``None`` to leave it float.
        weight_quantizer: quantizes the weight, or ``None`` to leave it float.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        layer: nn.Linear | nn.Conv2d,
        input_quantizer: Quantizer | None,
        weight_quantizer: Quantizer | None,
    ) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.input_quantizer = input_quantizer
        self.weight_quantizer = weight_quantizer

    def effective_weight(self) -> Tensor:
        """The weight as it takes part in the product.

        A frozen weight already lies on its grid, so it is used as it is.
        """
        if self.weight_quantizer is None or self.weight_quantizer.stage is Stage.FROZEN:
            return self.weight
        rounded: Tensor = self.weight_quantizer(self.weight)
        return rounded

    def effective_input(self, x: Tensor) -> Tensor:
        """``x`` as it takes part in the product, same shape."""
        return x if self.input_quantizer is None else self.input_quantizer(x)

    def is_exact(self, x: Tensor) -> bool:
        """Whether both operands are on frozen grids and nobody asks for gradients: then it is exact."""
        return has_steps(self.input_quantizer) and has_steps(self.weight_quantizer) and holds_sums(x)

    def freeze_weight(self) -> None:
        """Replace the weight by its round trip through the grid; there is no way back.

        A weight that is frozen already is left alone: if something moved it since, the audit must see that.
        """
        if self.weight_quantizer is not None and self.weight_quantizer.stage is not Stage.FROZEN:
            self.weight.data = self.weight_quantizer(self.weight.data)
            self.weight_quantizer.freeze()


class QuantLinear(QuantizedLayer):
    """``x (..., in) -> (..., out)`` with both operands on their grids."""

    def forward(self, x: Tensor) -> Tensor:
        inputs, weights = self.input_quantizer, self.weight_quantizer
        if inputs is not None and weights is not None and self.is_exact(x):
            on_grid = self.effective_input(x)
            return exact_linear(on_grid, self.effective_weight(), self.bias, inputs, weights)
        return F.linear(self.effective_input(x), self.effective_weight(), self.bias)


class QuantConv2d(QuantizedLayer):
    """``x (B, in, H, W) -> (B, out, H, W)`` with both operands on their grids."""

    def __init__(
        self, layer: nn.Conv2d, input_quantizer: Quantizer | None, weight_quantizer: Quantizer | None
    ) -> None:
        super().__init__(layer, input_quantizer, weight_quantizer)
        self.stride, self.padding = layer.stride, layer.padding
        self.dilation, self.groups = layer.dilation, layer.groups

    def forward(self, x: Tensor) -> Tensor:
        inputs, weights = self.input_quantizer, self.weight_quantizer
        plain = self.groups == 1 and not isinstance(self.padding, str)
        if inputs is not None and weights is not None and plain and self.is_exact(x):
            return self._exact(x, inputs, weights)
        x, weight = self.effective_input(x), self.effective_weight()
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def _exact(self, x: Tensor, inputs: Quantizer, weights: Quantizer) -> Tensor:
        """As a linear layer on patches: fast convolutions transform their operands and round."""
        weight, kernel = self.effective_weight(), self.weight.shape[2:]
        padding = cast(tuple[int, ...], self.padding)
        height, width = (
            (x.shape[2 + axis] + 2 * padding[axis] - self.dilation[axis] * (kernel[axis] - 1) - 1)
            // self.stride[axis]
            + 1
            for axis in (0, 1)
        )
        patches = F.unfold(self.effective_input(x), kernel, self.dilation, padding, self.stride)
        product = exact_linear(patches.transpose(1, 2), weight.flatten(1), self.bias, inputs, weights)
        maps: Tensor = product.transpose(1, 2).unflatten(2, (height, width))
        return maps
