"""Writing a network as its authors published theirs: our table of names, read backwards."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from saqsam.detectors.weights import Row


def published(network: nn.Module, table: Mapping[str, Row], rows: int = 0) -> dict[str, Tensor]:
    """Tensors under their published names; ``rows`` random ones follow those of which we keep the first."""
    parts: dict[str, dict[int, Tensor]] = {}
    state = network.state_dict()
    for name, row in table.items():
        value = state[name]
        if row.first is not None:
            value = torch.cat([value, torch.randn(rows, *value.shape[1:])])
        parts.setdefault(row.name, {})[row.part] = value
    return {
        name: torch.cat([found[i] for i in sorted(found)]) if len(found) > 1 else found[0]
        for name, found in parts.items()
    }


def write_published(tensors: Mapping[str, Tensor], path: Path) -> Path:
    """``{"model": tensors, "args": Namespace}``, as both training scripts save."""
    options = argparse.Namespace(lr=2e-4, output_dir="runs", betas=[0.9, 0.999], resume=None)
    torch.save({"model": dict(tensors), "args": options, "epoch": 35}, path)
    return path
