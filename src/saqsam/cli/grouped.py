"""Commands whose options come in groups: a dataclass parameter stands for one option for each field."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from copy import copy
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any, get_args, get_type_hints

from saqsam.cli.outputs import refuse_replacing


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """The command as typer is to see it, with the fields of its dataclass parameters as parameters.

    Fields are annotated as parameters of a command are; names must be different in all groups. A group with a
    ``TITLE`` is a section of the help, if the command is a ``SectionedCommand``.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {}
    flat: dict[str, inspect.Parameter] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        if not is_dataclass(hints[name]):
            flat[name] = _parameter(name, hints[name], parameter.default)
            continue
        groups[name] = hints[name]
        own = get_type_hints(hints[name], include_extras=True)
        for one in fields(groups[name]):
            default = inspect.Parameter.empty if one.default is MISSING else one.default
            kind = _under(own[one.name], getattr(groups[name], "TITLE", None))
            flat[one.name] = _parameter(one.name, kind, default)

    @functools.wraps(command)
    def called(**given: Any) -> None:
        refuse_replacing(given)
        made = {
            name: group(**{one.name: given.pop(one.name) for one in fields(group)})
            for name, group in groups.items()
        }
        command(**given, **made)

    called.__signature__ = inspect.Signature(list(flat.values()))  # type: ignore[attr-defined]
    called.__annotations__ = {name: parameter.annotation for name, parameter in flat.items()}
    del called.__wrapped__
    return called


def _under(annotated: Any, title: str | None) -> Any:
    """An annotated option as one of a section of the help."""
    if title is None:
        return annotated
    kind, option = get_args(annotated)
    option = copy(option)
    option.rich_help_panel = title
    return Annotated[kind, option]


def _parameter(name: str, kind: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
