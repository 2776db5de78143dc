"""Single recipe keys set from the command line: ``clip.focus_threshold=0.6``."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any

from saqsam.errors import RecipeError
from saqsam.recipe.fields import Recipe
from saqsam.recipe.schema import Section, kind_of, section_of, unknown_key
from saqsam.recipe.strict_yaml import parse_yaml


def apply_setting(data: dict[str, Any], setting: str) -> None:
    """Write ``key.path=value`` into plain data, the value read as its field's type."""
    path, equals, text = setting.partition("=")
    path = path.strip()
    if not equals or not path:
        raise RecipeError(f"setting '{setting}': expected key=value, such as clip.focus_threshold=0.6")
    keys, hint = _resolve(Recipe, path, path)
    here = data
    for key in keys[:-1]:
        if here.get(key) is None:
            here[key] = {}
        here = here[key]
        if not isinstance(here, dict):
            raise RecipeError(f"setting '{setting}': {key} is {kind_of(here)}, expected a mapping")
    here[keys[-1]] = _read_value(text.strip(), hint, path)


def _resolve(section: type[Section], path: str, whole: str) -> tuple[list[str], Any]:
    """Dotted path → keys and the annotation of the last one; a pattern may itself contain dots."""
    hints = typing.get_type_hints(section)
    key, dot, rest = path.partition(".")
    if key not in hints:
        raise RecipeError(unknown_key(f"setting '{whole}'", key, hints))
    nested = section_of(hints[key])
    if nested is None:
        if dot:
            raise RecipeError(f"setting '{whole}': '{key}' has no keys of its own")
        return [key], hints[key]
    origin = typing.get_origin(hints[key])
    if isinstance(origin, type) and issubclass(origin, Mapping):
        keys, hint = _resolve_pattern(nested, rest, whole)
    elif rest:
        keys, hint = _resolve(nested, rest, whole)
    else:
        names = ", ".join(f"{whole}.{name}" for name in typing.get_type_hints(nested))
        raise RecipeError(f"setting '{whole}': this is a section; set one of {names}")
    return [key, *keys], hint


def _resolve_pattern(nested: type[Section], rest: str, whole: str) -> tuple[list[str], Any]:
    """``PATTERN.bits`` or ``PATTERN.ranges.method``, where PATTERN may contain dots."""
    parts = rest.split(".")
    for depth in (2, 1):
        tail = ".".join(parts[-depth:])
        pattern = ".".join(parts[:-depth])
        if pattern and parts[-depth] in typing.get_type_hints(nested):
            keys, hint = _resolve(nested, tail, whole)
            return [pattern, *keys], hint
    example = f"{whole.partition('.')[0]}.<pattern>.<key>"
    known = ", ".join(typing.get_type_hints(nested))
    raise RecipeError(f"setting '{whole}': expected {example} with one of the keys {known}")


def _read_value(text: str, hint: Any, path: str) -> Any:
    """Text from the command line as plain data: verbatim for text and choices, YAML for all else."""
    if hint is str or typing.get_origin(hint) is typing.Literal:
        return text
    if typing.get_origin(hint) is tuple and not text.startswith("["):
        text = f"[{text}]"
    return parse_yaml(text, f"setting '{path}'")
