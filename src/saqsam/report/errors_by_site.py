"""How far each layer's output is from float, and what each quantizer sees, on a few images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

SAMPLE = 4096
"""Values kept of each tensor, evenly spaced: enough for an error or a histogram, small for large models."""

Samples = dict[str, list[Tensor]]
"""By name, a 1-D float32 tensor for each call."""


def samples(
    layers: Mapping[str, nn.Module], quantizers: Mapping[str, nn.Module], run: Callable[[], object]
) -> tuple[Samples, Samples]:
    """Evenly spaced values of the outputs of ``layers`` and of the first inputs of ``quantizers``.

    Args:
        layers: modules by name.
        quantizers: modules by name; both are listened to only while ``run`` runs.
        run: uses the modules.
    """
    outputs: Samples = {name: [] for name in layers}
    inputs: Samples = {name: [] for name in quantizers}

    def of_output(name: str) -> Callable[..., None]:
        return lambda module, arguments, output: _keep(outputs[name], output)

    def of_input(name: str) -> Callable[..., None]:
        return lambda module, arguments, output: _keep(inputs[name], arguments[0] if arguments else None)

    hooks = [(module, of_output(name)) for name, module in layers.items()]
    hooks += [(module, of_input(name)) for name, module in quantizers.items()]
    with _hooked(hooks):
        run()
    return outputs, inputs


def relative_errors(reference: Samples, other: Samples) -> dict[str, float]:
    """``|y - x| / |x|`` in the 2-norm by name; names whose calls or shapes differ are left out."""
    found = {}
    for path, seen in reference.items():
        mine = other.get(path, [])
        if not seen or [len(one) for one in seen] != [len(one) for one in mine]:
            continue
        x, y = torch.cat(seen), torch.cat(mine)
        norm = float(x.norm())
        if norm > 0:
            found[path] = float((y - x).norm()) / norm
    return found


def _keep(kept: list[Tensor], value: Any) -> None:
    if isinstance(value, Tensor):
        flat = value.detach().flatten()
        kept.append(flat[:: max(1, len(flat) // SAMPLE)].float().cpu())


@contextmanager
def _hooked(hooks: list[tuple[nn.Module, Callable[..., None]]]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
