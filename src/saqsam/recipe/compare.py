"""In which keys two recipes differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from saqsam.recipe.fields import Recipe
from saqsam.recipe.schema import join


@dataclass(frozen=True)
class Difference:
    """One key whose values differ, in plain JSON types; ``None`` where a recipe does not have the key."""

    key: str
    one: Any
    other: Any


def differences(one: Recipe, other: Recipe) -> list[Difference]:
    """All keys that differ, dotted, in the order of the recipe; name and description are left out."""
    first, second = dict(_flat(one.to_dict(), "")), dict(_flat(other.to_dict(), ""))
    return [
        Difference(key, first.get(key), second.get(key))
        for key in {**first, **second}
        if first.get(key) != second.get(key) and key not in ("name", "description")
    ]


def _flat(values: Mapping[str, Any], where: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, join(where, key))
        else:
            yield join(where, key), value
