"""Single recipe keys set from the command line: ``clip.focus_threshold=0.6``."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from saqsam.errors import RecipeError
from saqsam.recipe.fields import Recipe
from saqsam.recipe.official_words import here
from saqsam.recipe.schema import Section, join, kind_of, section_of, unknown_key
from saqsam.recipe.strict_yaml import parse_yaml

Settings = str | Sequence[str] | Mapping[str, Any]
"""``("clip.sweeps=3", ...)``, or ``{"clip.sweeps": 3}``, or ``{"clip": {"sweeps": 3}}``."""


def apply_settings(data: dict[str, Any], settings: Settings) -> None:
    """Write settings into plain data, in order.

    Args:
        data: a recipe in plain JSON types.
        settings: ``"key.path=value"`` texts, or a mapping of ``"key.path"``, or of nested keys, to values.

    Raises:
        RecipeError: no such key, or no setting at all.
    """
    if isinstance(settings, str):
        settings = (settings,)
    if isinstance(settings, Mapping):
        for path, value in _flat(settings, ""):
            _write(data, path, path, partial(_plain, value, path))
        return
    for setting in settings:
        if not isinstance(setting, str):
            raise RecipeError(
                f"settings: expected texts such as 'clip.sweeps=3' or a mapping, found {kind_of(setting)}"
            )
        apply_setting(data, setting)


def _flat(settings: Mapping[Any, Any], where: str) -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        path = join(where, str(key))
        if isinstance(value, Mapping) and value:
            yield from _flat(value, path)
        else:
            yield path, value


def _plain(value: Any, path: str, hint: Any) -> Any:
    """A value from Python; text stands for what the command line would make of it."""
    return _read_value(value.strip(), hint, path) if isinstance(value, str) else value


def apply_setting(data: dict[str, Any], setting: str) -> None:
    """Write ``key.path=value`` into plain data, the value read as its field's type."""
    path, equals, text = setting.partition("=")
    path = path.strip()
    if not equals or not path:
        raise RecipeError(f"setting '{setting}': expected key=value, such as clip.focus_threshold=0.6")
    _write(data, path, setting, lambda hint: _read_value(text.strip(), hint, path))


def _write(data: dict[str, Any], path: str, setting: str, read: Callable[[Any], Any]) -> None:
    keys, hint = _resolve(Recipe, path, path)
    place = data
    for key in keys[:-1]:
        if place.get(key) is None:
            place[key] = {}
        place = place[key]
        if not isinstance(place, dict):
            raise RecipeError(f"setting '{setting}': {key} is {kind_of(place)}, expected a mapping")
    place[keys[-1]] = read(hint)


def _resolve(section: type[Section], path: str, whole: str) -> tuple[list[str], Any]:
    """Dotted path → keys and the annotation of the last one; a pattern may itself contain dots."""
    hints = typing.get_type_hints(section)
    key, dot, rest = path.partition(".")
    if key not in hints:
        raise RecipeError(_unknown(key, whole, hints))
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


def _unknown(key: str, whole: str, hints: Mapping[str, Any]) -> str:
    if key == "bits":
        return (
            f"setting '{whole}': bits of encoder and decoder, weights and activations, are set together by "
            "--bits w6a6 (bits='w6a6' in Python), or one by one, such as encoder.weights=6"
        )
    known = here(key)
    if known is not None and not difflib.get_close_matches(key, hints, n=1, cutoff=0.8):
        return f"setting '{whole}': {key} is a word of the published code; here it is {known}"
    return unknown_key(f"setting '{whole}'", key, hints)


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
