"""Randomness by name: redoing one unit never changes what another one draws."""

from __future__ import annotations

import hashlib

import torch


def seeded(seed: int, name: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that depends on the recipe's seed and a name alone, so units can be redone one by one."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)
