"""Options of loading, written behind a model's name: ``medsam_vit_b.pth#preprocessing=medsam``.

So every verb takes them, and whatever is continued elsewhere or later: shards, workers, resumed runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any

from torch import nn

from saqsam.errors import UsageError
from saqsam.families.record import Model
from saqsam.families.registry import family_of
from saqsam.files import expanded

_MARK = "#"


def split_options(source: str | Path) -> tuple[str | Path, dict[str, str]]:
    """A model's name, and the options behind it: ``name#key=value,key``.

    Something that exists under the whole name is taken as it is.

    Raises:
        UsageError: ``source`` is no path and no name.
    """
    whole = expanded(source)
    name, mark, text = str(source).partition(_MARK)
    if not mark or whole.exists():
        return source, {}
    options: dict[str, str] = {}
    for part in text.split(","):
        key, _, value = part.partition("=")
        options[key.strip()] = value.strip()
    return name, options


def set_options(model: Model, options: Mapping[str, str], name: str) -> None:
    """Write options into a float model's configuration, from where a packed file takes them.

    Args:
        model: float.
        options: of :func:`split_options`.
        name: what the user gave, for messages.

    Raises:
        UsageError: the model's family has no such option, or the option no such value.
    """
    family = family_of(model)
    for key, value in options.items():
        option = family.options.get(key)
        if option is None:
            known = ", ".join(family.options) or "none"
            raise UsageError(
                f"{name}: {family.name} has no option '{key}' of loading; those it has: {known}. "
                "Mend what stands behind the #, or leave it out"
            )
        if value not in option.values:
            known = ", ".join(f"'{word}'" for word in option.values if word)
            raise UsageError(f"{name}: option '{key}' cannot be '{value}'; give {known}")
        setattr(reduce(getattr, option.section, model.config), key, option.values[value])


def options_of(model: nn.Module) -> dict[str, Any]:
    """The options that a model was loaded with, or quantized with, by key; none of a module of no family."""
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        return {}
    found = {
        key: getattr(reduce(getattr, option.section, model.config), key, None)
        for key, option in family_of(model).options.items()
    }
    return {key: value for key, value in found.items() if value is not None}


def refuse_options(options: Mapping[str, str], name: str) -> None:
    """A packed file was made with its options, and holds them.

    Raises:
        UsageError: there are any.
    """
    if options:
        raise UsageError(
            f"{name}: a packed file holds the options it was quantized with; leave out what follows the #"
        )
