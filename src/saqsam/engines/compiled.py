"""``load(file, engine="compiled")``: the encoder with int8 linear layers, compiled by ``torch.compile``.

Simulated integers spend a GPU's time on many small operations for each quantizer; a compiler fuses them.
Attention runs in half precision by autocast, what flows between layers stays float32, and linear layers are
those of :mod:`saqsam.engines.int8`. Masks differ from the simulation's by half precision's rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from saqsam.errors import UsageError
from saqsam.families.record import Model
from saqsam.families.registry import encoder_of


def compile_encoder(model: Model) -> None:
    """Let the image encoder run compiled, in place; it is compiled at its first call, for that batch size.

    The first call takes a minute or more.

    Raises:
        UsageError: at the first call, if PyTorch finds no compiler: Triton on a GPU, C++ on a CPU.
    """
    encoder = encoder_of(model)
    setattr(model, encoder.path, CompiledEncoder(encoder.module))


class CompiledEncoder(nn.Module):
    """An image encoder in half precision, compiled, with the calls of the one it holds."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self._run = torch.compile(encoder.forward, dynamic=False)

    def forward(self, pixel_values: Tensor, **options: Any) -> Any:
        """As of the encoder; all that it makes is float32.

        Raises:
            UsageError: PyTorch finds no compiler.
        """
        device = pixel_values.device
        try:
            with torch.autocast(device.type, half_precision(device)):
                output = self._run(pixel_values, **options)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0][:200]
            raise UsageError(
                f"engine 'compiled': PyTorch cannot compile on {device.type} here ({reason}); "
                "install a compiler (Triton for a GPU, C++ for a CPU), or take the engine int8"
            ) from error
        for name, value in output.items():
            output[name] = _as_float(value)
        return output


def _as_float(value: Any) -> Any:
    """A tensor or several in float32; anything else as it is."""
    if isinstance(value, tuple | list):
        return tuple(map(_as_float, value))
    return value.float() if isinstance(value, Tensor) else value


def half_precision(device: torch.device) -> torch.dtype:
    """bfloat16, or float16 on GPUs that lack it."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        return torch.float16
    return torch.bfloat16
