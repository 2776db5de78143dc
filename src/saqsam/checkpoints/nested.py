"""Tensors in dictionaries inside dictionaries, as training programs save them, under flat names."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

_MOST = 10_000  # dictionaries; those of an optimiser are as many as its tensors
_DEPTH = 3  # {"checkpoint": {"model": {"state_dict": {...}}}} is the deepest that was seen


def flat_entries(content: Mapping[Any, Any]) -> Iterator[tuple[str, object]]:
    """``{"net": {"a.weight": x}, "epoch": 3}`` as ``("net.a.weight", x), ("epoch", 3)``.

    A dictionary is entered only where the names around it have no dot: one with dotted names is a model's
    own, and what it holds should be tensors.
    """
    for prefix, level in levels(content):
        whole = _is_state(level)
        for key, value in level.items():
            if whole or not isinstance(value, dict) or prefix.count(".") >= _DEPTH:
                yield f"{prefix}{key}", value


def levels(content: Mapping[Any, Any]) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Every dictionary that :func:`flat_entries` enters, with what stands before its names, from outside."""
    waiting = deque([("", content)])
    for _ in range(_MOST):
        if not waiting:
            return
        prefix, level = waiting.popleft()
        yield prefix, level
        if not _is_state(level) and prefix.count(".") < _DEPTH:
            inner = (f"{key}".replace(".", "_") for key in level)
            waiting += [
                (f"{prefix}{name}.", value)
                for name, value in zip(inner, level.values(), strict=True)
                if isinstance(value, dict)
            ]


def _is_state(level: Mapping[Any, Any]) -> bool:
    return any(isinstance(key, str) and "." in key for key in level)
