"""Tensors in dictionaries inside dictionaries, as training programs save them, under flat names."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

_MOST = 10_000  # dictionaries; those of an optimiser are as many as its tensors
_DEPTH = 3  # {"checkpoint": {"model": {"state_dict": {...}}}} is the deepest that was seen


def flat_entries(content: Mapping[Any, Any]) -> Iterator[tuple[str, object]]:
    """``{"net": {"a.weight": x}, "epoch": 3}`` as ``("net.a.weight", x), ("epoch", 3)``.

    A dictionary is not entered where its name has a dot and others of the kind are those of tensors: that is
    a model's own, and what it holds should be tensors.
    """
    for prefix, level in levels(content):
        whole = _is_state(level)
        for key, value in level.items():
            if not _is_entered(key, value, whole) or prefix.count(".") >= _DEPTH:
                yield f"{prefix}{key}", value


def levels(content: Mapping[Any, Any]) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Every dictionary that :func:`flat_entries` enters, with what stands before its names, from outside."""
    waiting = deque([("", content)])
    for _ in range(_MOST):
        if not waiting:
            return
        prefix, level = waiting.popleft()
        yield prefix, level
        if prefix.count(".") < _DEPTH:
            whole = _is_state(level)
            waiting += [
                (f"{prefix}{str(key).replace('.', '_')}.", value)
                for key, value in level.items()
                if _is_entered(key, value, whole)
            ]


def _is_state(level: Mapping[Any, Any]) -> bool:
    """Whether a dictionary has dotted names of something else than dictionaries, as the state of a model."""
    return any(_is_dotted(key) and not isinstance(value, dict) for key, value in level.items())


def _is_entered(key: object, value: object, whole: bool) -> bool:
    return isinstance(value, dict) and not (whole and _is_dotted(key))


def _is_dotted(key: object) -> bool:
    return isinstance(key, str) and "." in key
