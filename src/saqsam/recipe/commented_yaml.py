"""Sections as YAML that explains itself: every key carries its help text as a comment."""

from __future__ import annotations

import dataclasses
import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from saqsam.recipe.schema import Section


def to_yaml(section: Section) -> str:
    """A section as YAML, every key present, each with its meaning in a comment above it."""
    return "\n".join(_section_lines(section, 0)) + "\n"


def _section_lines(section: Section, depth: int) -> Iterator[str]:
    for field in dataclasses.fields(section):
        yield from _comment(field.metadata["help"], depth)
        yield from _entry_lines(field.name, getattr(section, field.name), depth)


def _entry_lines(key: str, value: Any, depth: int) -> Iterator[str]:
    indent = "  " * depth
    if isinstance(value, Section):
        yield f"{indent}{key}:"
        yield from _section_lines(value, depth + 1)
    elif isinstance(value, Mapping) and value:
        yield f"{indent}{key}:"
        for name, entry in value.items():
            yield f"{indent}  {_scalar(name)}:"
            given = {k: v for k, v in entry.to_plain().items() if v is not None}
            for inner, inner_value in given.items():
                yield f"{indent}    {inner}: {json.dumps(inner_value)}"
    elif isinstance(value, tuple):
        yield from textwrap.wrap(
            f"{key}: [{', '.join(map(_scalar, value))}]",
            100,
            initial_indent=indent,
            subsequent_indent=indent + "  ",
            break_long_words=False,
        )
    else:
        yield f"{indent}{key}: {'{}' if isinstance(value, Mapping) else _scalar(value)}"


def _comment(text: str, depth: int) -> list[str]:
    indent = "  " * depth + "# "
    return textwrap.wrap(text, 100, initial_indent=indent, subsequent_indent=indent)


def _scalar(value: Any) -> str:
    """One YAML scalar on one line; text that YAML could misread is quoted."""
    if value is None or isinstance(value, (bool, int, float)):
        return json.dumps(value)
    plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9 _;,()/.*+-]*", value) and value == value.strip()
    if plain and isinstance(yaml.safe_load(value), str):
        return str(value)
    return yaml.safe_dump(value, default_style='"', allow_unicode=True, width=10**9).rstrip("\n")
