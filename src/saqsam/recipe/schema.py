"""Dataclasses as a schema: one field gives its type check, its bounds, its help text and its YAML comment.

A *section* is a frozen dataclass whose fields were made by :func:`option`. Sections nest; mappings from
text to sections and homogeneous tuples are allowed; everything else is text, integer, number, true/false
or a choice of words.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Literal, Self

from saqsam.errors import RecipeError
from saqsam.recipe.official_words import here

Plain = Any  # what JSON can hold: None, bool, int, float, str, list, dict


def option(
    help: str,
    default: Any = dataclasses.MISSING,
    *,
    default_factory: Any = dataclasses.MISSING,
    minimum: float | None = None,
    maximum: float | None = None,
    ascending: bool = False,
    also: Mapping[str, str] = MappingProxyType({}),
    choices: Callable[[], Iterable[str]] | None = None,
) -> Any:
    """A dataclass field with its documentation; bounds are inclusive and hold for each item of a tuple.

    Args:
        also: other words for values of a choice, which are stored as the value they stand for.
        choices: gives the words that a text may be, where they are not known before a program runs.
    """
    details = {
        "help": help,
        "minimum": minimum,
        "maximum": maximum,
        "ascending": ascending,
        "also": also,
        "choices": choices,
    }
    if default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=default_factory, metadata=details)
    return dataclasses.field(default=default, metadata=details)


@dataclass(frozen=True)
class Section:
    """Base of every section: values are checked however an instance is made.

    Raises:
        RecipeError: a value has the wrong type or lies outside its bounds.
    """

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            object.__setattr__(
                self,
                field.name,
                _convert(getattr(self, field.name), hints[field.name], field, _label(type(self), field.name)),
            )

    @classmethod
    def from_plain(cls, data: Plain, where: str = "") -> Self:
        """Build the section from plain JSON types; absent keys take their defaults.

        Args:
            data: a mapping with the section's keys and no others.
            where: dotted path of this section, for messages.

        Raises:
            RecipeError: unknown key (its nearest neighbour is named), missing key, or a bad value.
        """
        if not isinstance(data, Mapping):
            raise RecipeError(f"{where or 'recipe'}: expected a mapping of keys, found {kind_of(data)}")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for key in data:
            if key not in fields:
                raise RecipeError(unknown_key(join(where, str(key)), str(key), fields))
        hints = typing.get_type_hints(cls)
        values = {
            key: _convert(value, hints[key], fields[key], join(where, key)) for key, value in data.items()
        }
        for name, field in fields.items():
            required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            if required and name not in values:
                raise RecipeError(
                    f"{join(where, name)}: this key is required; it is {field.metadata['help']}"
                )
        return cls(**values)

    def to_plain(self) -> dict[str, Plain]:
        """The section as plain JSON types, every key present; ``from_plain`` gives it back."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}


@dataclass(frozen=True)
class KeyHelp:
    """One row of a schema's documentation.

    ``default`` is plain JSON types, or ``dataclasses.MISSING`` where the key is required.
    """

    key: str
    type: str
    default: Plain
    help: str


def describe(section: type[Section], where: str = "") -> Iterator[KeyHelp]:
    """Every key below ``section`` in order, dotted; keys of a mapping's sections hang below ``<pattern>``."""
    hints = typing.get_type_hints(section)
    for field in dataclasses.fields(section):
        hint, key = hints[field.name], join(where, field.name)
        yield KeyHelp(key, type_text(hint, field), _default(field), field.metadata["help"])
        nested = section_of(hint)
        if nested is not None and not _is_optional(hint):
            yield from describe(nested, join(key, "<pattern>") if _is_mapping(hint) else key)


def section_of(hint: Any) -> type[Section] | None:
    """The section behind a type annotation: itself, the values of a mapping, or the non-None part."""
    if isinstance(hint, type) and issubclass(hint, Section):
        return hint
    for argument in typing.get_args(hint):
        found = section_of(argument)
        if found is not None:
            return found
    return None


def type_text(hint: Any, field: dataclasses.Field[Any]) -> str:
    """A type in words with its bounds: ``integer, 2 to 8``."""
    if _is_optional(hint):
        return type_text(_without_none(hint), field) + ", or null"
    if (choices := _choices(hint, field)) is not None:
        return "one of " + ", ".join(choices)
    if _is_mapping(hint):
        return "mapping of patterns to sections"
    if section_of(hint) is not None:
        return "section"
    low, high = field.metadata["minimum"], field.metadata["maximum"]
    bounds = f", {low} to {high}" if low is not None and high is not None else ""
    if typing.get_origin(hint) is tuple:
        return f"list of {_WORDS[typing.get_args(hint)[0]]}s{bounds}" + (
            ", ascending" if field.metadata["ascending"] else ""
        )
    return _WORDS[hint] + bounds


def unknown_key(where: str, key: str, known: Iterable[str]) -> str:
    """A message for a key that does not exist, naming its nearest neighbour or else all keys."""
    names = list(known)
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else "known keys: " + ", ".join(names)
    return f"{where[:200]}: unknown key; {hint}"


def kind_of(value: Any) -> str:
    """A value in a few words; never walks into a container, which may be enormous."""
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def join(where: str, key: str) -> str:
    """A dotted path."""
    return f"{where}.{key}" if where else key


_WORDS: dict[Any, str] = {str: "text", int: "integer", float: "number", bool: "true or false"}


def _label(section: type, name: str) -> str:
    return f"{section.__name__}.{name}"


def _convert(value: Any, hint: Any, field: dataclasses.Field[Any], where: str) -> Any:
    """``value`` as the annotated type, or RecipeError; integers are accepted where numbers are wanted."""
    if _is_optional(hint):
        return None if value is None else _convert(value, _without_none(hint), field, where)
    nested = section_of(hint)
    if _is_mapping(hint) and nested is not None:
        return _convert_mapping(value, nested, where)
    if nested is not None:
        return value if isinstance(value, nested) else nested.from_plain(value, where)
    if typing.get_origin(hint) is tuple:
        return _convert_tuple(value, typing.get_args(hint)[0], field, where)
    if (choices := _choices(hint, field)) is not None:
        value = _known_as(value, choices, field.metadata["also"])
        if not isinstance(value, str) or value not in choices:
            known = here(value) if isinstance(value, str) else None
            hint = f"; the published code's {value} is here: {known}" if known else ""
            raise RecipeError(f"{where}: {kind_of(value)} is not one of {', '.join(choices)}{hint}")
        return value
    return _convert_scalar(value, hint, field, where)


def _known_as(value: Any, choices: tuple[Any, ...], also: Mapping[str, str]) -> Any:
    """The value that another word stands for; YAML reads ``no`` as false."""
    word = "no" if value is False else value
    if not isinstance(word, str) or word in choices:
        return value
    return {name.lower(): meant for name, meant in also.items()}.get(word.lower(), value)


def _convert_scalar(value: Any, hint: Any, field: dataclasses.Field[Any], where: str) -> Any:
    fits = isinstance(value, (int, float) if hint is float else hint)
    if not fits or (isinstance(value, bool) and hint is not bool):
        raise RecipeError(f"{where}: expected {type_text(hint, field)}, found {kind_of(value)}")
    if isinstance(value, str):
        if not value.isprintable() or len(value) > 1000:
            raise RecipeError(f"{where}: expected one line of at most 1000 printable characters")
        return value
    if isinstance(value, bool):
        return value
    low, high = field.metadata["minimum"], field.metadata["maximum"]
    finite = not isinstance(value, float) or math.isfinite(value)
    if not finite or (low is not None and value < low) or (high is not None and value > high):
        raise RecipeError(f"{where}: {kind_of(value)} is outside {low} to {high}")
    return float(value) if hint is float else value


def _convert_tuple(value: Any, item: Any, field: dataclasses.Field[Any], where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)) or not value:
        raise RecipeError(f"{where}: expected a list of at least one {_WORDS[item]}, found {kind_of(value)}")
    if len(value) > 1000:
        raise RecipeError(f"{where}: {len(value)} items; at most 1000 are accepted")
    items = tuple(_convert_scalar(each, item, field, f"{where}[{i}]") for i, each in enumerate(value))
    if field.metadata["ascending"] and any(b <= a for a, b in pairwise(items)):
        raise RecipeError(f"{where}: values must ascend, each larger than the one before")
    return items


def _convert_mapping(value: Any, section: type[Section], where: str) -> dict[str, Section]:
    if not isinstance(value, Mapping):
        raise RecipeError(f"{where}: expected a mapping, found {kind_of(value)}")
    out: dict[str, Section] = {}
    for key, entry in value.items():
        if not isinstance(key, str) or not key or not key.isprintable() or len(key) > 200:
            raise RecipeError(f"{where}: {kind_of(key)} cannot be a key; give 1 to 200 printable characters")
        out[key] = entry if isinstance(entry, section) else section.from_plain(entry, f"{where}.{key}")
    return out


def _plain(value: Any) -> Plain:
    if isinstance(value, Section):
        return value.to_plain()
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _default(field: dataclasses.Field[Any]) -> Plain:
    if field.default_factory is not dataclasses.MISSING:
        return _plain(field.default_factory())
    return field.default if field.default is dataclasses.MISSING else _plain(field.default)


def _choices(hint: Any, field: dataclasses.Field[Any]) -> tuple[str, ...] | None:
    """The words that a value may be, or ``None`` if it is no choice."""
    if typing.get_origin(hint) is Literal:
        return tuple(map(str, typing.get_args(hint)))
    choices = field.metadata["choices"]
    return None if choices is None else tuple(choices())


def _is_optional(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType) and type(None) in typing.get_args(hint)


def _without_none(hint: Any) -> Any:
    return next(each for each in typing.get_args(hint) if each is not type(None))


def _is_mapping(hint: Any) -> bool:
    origin = typing.get_origin(hint)
    return isinstance(origin, type) and issubclass(origin, Mapping)
