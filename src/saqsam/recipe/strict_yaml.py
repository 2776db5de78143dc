"""YAML from strangers: plain data only, no tags, no repeated keys, no bombs, messages with line numbers.

The text is walked as a flat stream of events before anything is composed, so that a few bytes of
aliases cannot grow into gigabytes and nesting cannot exhaust the stack.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from saqsam.errors import RecipeError

MAX_BYTES = 1_000_000
MAX_ALIASES = 100
MAX_NODES = 20_000
MAX_DEPTH = 16

_MERGE = "tag:yaml.org,2002:merge"


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader that refuses repeated keys and reads ``1e-5`` as a number, as YAML 1.2 does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        out: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                raise yaml.constructor.ConstructorError(
                    None, None, "merge keys ('<<') are not used in recipes", key_node.start_mark
                )
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be a single word", key_node.start_mark
                )
            key = self.construct_object(key_node)
            if key in out:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key '{key_node.value}' appears twice", key_node.start_mark
                )
            out[key] = self.construct_object(value_node, deep=deep)
        return out


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor("tag:yaml.org,2002:map", _mapping)
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(path: str | Path) -> Any:
    """Read one YAML document from a file as plain data.

    Raises:
        RecipeError: the file is missing, unreadable, larger than 1 MB, not UTF-8, or not plain YAML.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror or error}); check its path") from error
    if len(raw) > MAX_BYTES:
        raise RecipeError(
            f"{path}: larger than {MAX_BYTES // 1_000_000} MB, so this is not a recipe; give a YAML file"
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"{path}: byte {error.start} is not UTF-8 text, so this is not a recipe; give a YAML file"
        ) from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> Any:
    """Parse one YAML document as plain data; ``where`` names it in messages.

    Raises:
        RecipeError: tags, repeated keys, tabs for indentation, more than 100 aliases, more than 20 000
            nodes, nesting deeper than 16, more than one document, or text that is not YAML.
    """
    if len(text) > MAX_BYTES:
        raise RecipeError(
            f"{where}: larger than {MAX_BYTES // 1_000_000} MB, so this is not a recipe; give a YAML file"
        )
    for number, line in enumerate(text.splitlines(), start=1):
        if "\t" in line[: len(line) - len(line.lstrip())]:
            raise RecipeError(f"{where}, line {number}: indented with a tab; YAML wants spaces")
    try:
        _check_events(text, where)
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a stricter safe loader
    except yaml.MarkedYAMLError as error:
        raise RecipeError(
            f"{where}{_line(error)}: {error.problem or 'not valid YAML'}; mend this line"
        ) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        reason = str(error).splitlines()[0] if str(error) else "not valid YAML"
        raise RecipeError(f"{where}: not valid YAML ({reason}); mend the file") from error


def _check_events(text: str, where: str) -> None:
    """Walk the flat event stream and refuse whatever would be dangerous to compose."""
    aliases = nodes = depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 0
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise RecipeError(
                f"{where}, line {line}: tag '{tag[:80]}' refused; a recipe is plain data, leave tags out"
            )
        nodes += isinstance(event, yaml.NodeEvent)
        aliases += isinstance(event, yaml.AliasEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if aliases > MAX_ALIASES:
            raise RecipeError(f"{where}, line {line}: more than {MAX_ALIASES} aliases; write the values out")
        if nodes > MAX_NODES:
            raise RecipeError(f"{where}, line {line}: more than {MAX_NODES} values; give a smaller recipe")
        if depth > MAX_DEPTH:
            raise RecipeError(
                f"{where}, line {line}: nested deeper than {MAX_DEPTH} levels; a recipe needs two or three"
            )


def _line(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    return f", line {mark.line + 1}" if mark is not None else ""
