"""How far each layer's output is from float, and what each quantizer sees, on a few images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import SamModel

SAMPLE = 4096
"""Values kept of each tensor, evenly spaced: enough for an error or a histogram, small for large models."""


def layer_samples(model: SamModel, paths: list[str], run: Callable[[], object]) -> dict[str, list[Tensor]]:
    """Evenly spaced values of the outputs of the modules at ``paths`` while ``run`` runs."""
    return _samples({path: model.get_submodule(path) for path in paths}, run, of_output=True)


def input_samples(modules: Mapping[str, nn.Module], run: Callable[[], object]) -> dict[str, list[Tensor]]:
    """Evenly spaced values of the first inputs of ``modules`` while ``run`` runs."""
    return _samples(modules, run, of_output=False)


def relative_errors(reference: dict[str, list[Tensor]], other: dict[str, list[Tensor]]) -> dict[str, float]:
    """``|y - x| / |x|`` in the 2-norm by path; paths whose calls or shapes differ are left out."""
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


def _samples(
    modules: Mapping[str, nn.Module], run: Callable[[], object], *, of_output: bool
) -> dict[str, list[Tensor]]:
    kept: dict[str, list[Tensor]] = {name: [] for name in modules}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            value = output if of_output else (inputs[0] if inputs else None)
            if isinstance(value, Tensor):
                flat = value.detach().flatten()
                kept[name].append(flat[:: max(1, len(flat) // SAMPLE)].float().cpu())

        return hook

    with _hooked({name: (module, keep(name)) for name, module in modules.items()}):
        run()
    return kept


@contextmanager
def _hooked(hooks: Mapping[str, tuple[nn.Module, Callable[..., None]]]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module, hook in hooks.values()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
