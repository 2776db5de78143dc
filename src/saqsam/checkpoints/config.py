"""A configuration from numbers that came with a file, after each was seen to make sense.

A configuration may carry anything: only the fields that its family lists are taken from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from saqsam.errors import CheckpointError, UsageError
from saqsam.families.record import Config, Family
from saqsam.families.registry import family_named, family_of_config

_HINT = "Give the configuration that belongs to these weights"


def checked_config(
    path: str | Path, parts: Mapping[str, object], *, tensors: int | None = None, quantized: bool = False
) -> Config:
    """The configuration that ``parts`` describes: the one way in for every configuration, from any file.

    Args:
        path: the file it came from, for messages.
        parts: ``{"model_type": ..., "vision_config": {...}, ...}``, of SAM 1 where no type is named; what is
            left out takes the default values of the family, what the family does not list is passed over.
        tensors: how many tensors came with it, more than which there are no layers; ``None`` to look later.
        quantized: keep what it says of fields that the published code fixes: that is what was quantized.

    Returns:
        A configuration in which some fields are as in the published code whatever ``parts`` says (unless
        ``quantized``), see ``ConfigRules.published``.

    Raises:
        CheckpointError: a value that no model of the family can have, or values that contradict each other.
    """
    family = _family(path, parts)
    parts = _described(path, parts, family)
    taken: dict[str, Any] = {}
    for section in family.config.fields:
        values = _checked_section(path, parts, section, family)
        if not quantized:
            values |= family.config.published.get(section, {})
        values |= family.config.constants.get(section, {})
        inner = taken
        for name in section[:-1]:
            inner = inner[name]
        inner[section[-1]] = values
    try:
        config: Any = family.config_class(**taken)
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise CheckpointError(path, f"not a valid {family.name} configuration ({error})", _HINT) from error
    problem = family.config.problem(config)
    if problem:
        raise CheckpointError(path, problem, _HINT)
    if tensors is not None:
        check_depths(path, config, tensors)
    checked: Config = config
    return checked


def _family(path: str | Path, parts: Mapping[str, object]) -> Family:
    try:
        return family_named(str(parts.get("model_type", "sam")))
    except UsageError as error:
        raise CheckpointError(path, str(error), _HINT) from error


def _described(path: str | Path, parts: Mapping[str, object], family: Family) -> Mapping[str, object]:
    """What of a configuration describes the family's model: all of it, or a section of a larger model's."""
    section = family.config.within.get(str(parts.get("model_type")))
    found = parts if section is None else parts.get(section, {})
    if not isinstance(found, Mapping):
        raise CheckpointError(path, f"its {section} is not a table of names and values", _HINT)
    return found


def _checked_section(
    path: str | Path, parts: Mapping[str, object], section: tuple[str, ...], family: Family
) -> dict[str, Any]:
    """The values of one section that the family knows."""
    given: object = parts
    for name in section:
        given = given.get(name, {}) if isinstance(given, Mapping) else given
    where = ".".join(section)
    if not isinstance(given, Mapping):
        raise CheckpointError(path, f"its {where} is not a table of names and values", _HINT)
    checks = family.config.fields[section]
    values = {key: given[key] for key in checks if key in given}
    for key, value in values.items():
        if not checks[key](value):
            problem = f"{where}.{key} is {value!r:.60}, which no {family.name} can have"
            raise CheckpointError(path, problem, _HINT)
    return values


def sections_of(config: Config) -> tuple[str, ...]:
    """Names of the sections of a configuration."""
    return tuple(dict.fromkeys(section[0] for section in family_of_config(config).config.fields))


def check_depths(path: str | Path, config: Config, tensors: int) -> None:
    """Even a model without memory takes a while to lay out where it has many layers.

    Raises:
        CheckpointError: the configuration asks for more layers than there are tensors.
    """
    deepest = family_of_config(config).config.depth(config)
    if deepest > tensors:
        problem = f"its configuration asks for {deepest} layers, more than there are tensors"
        raise CheckpointError(path, problem, _HINT)
