"""Names of tensors in the files that a family's authors published, and in ``transformers``: there and back.

Rules cover full names, each name matches exactly one rule, and every rule is read in both directions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

T = TypeVar("T")

PLACES = {"i": r"\d+", "j": r"\d", "x": r"weight|bias", "axis": r"[hw]"}
"""What may stand for ``{i}`` and so on in every rule."""


def _never(*given: Any) -> Any:
    """In place of an operation that a layout has no use for."""
    raise NotImplementedError


@dataclass(frozen=True)
class Layout:
    """The names of one family.

    Attributes:
        marks: what a name begins with in these files and in no other family's.
        rules: official template and ``transformers`` template, with places such as ``{i}``.
        places: expressions for places of the rules, beside ``PLACES``.
        mlps: templates of the paths of MLPs, official and ``transformers``. Their layers are numbered in
            official files; ``transformers`` has names for the first one and the last.
        joined: official template with ``{i}``, and the ``transformers`` name of one tensor that holds them
            all, one after the other in its first dimension.
        fused: official template of one tensor that holds several one after the other in its first dimension,
            and the ``transformers`` templates of these.
        headed: official name of a table with a first row, in dimension 1, that nothing reads, and the
            ``transformers`` name of the table without it.
        twins: ``transformers`` names of one table, of which official files hold the first.
        ignored: official names that are the same in every file and not needed.
        wrapper: the name of the dictionary that the files keep their tensors in; empty for none.
    """

    marks: tuple[str, ...]
    rules: tuple[tuple[str, str], ...]
    places: Mapping[str, str]
    mlps: tuple[tuple[str, str], ...]
    twins: tuple[tuple[str, str], ...]
    joined: tuple[tuple[str, str], ...] = ()
    fused: tuple[tuple[str, tuple[str, ...]], ...] = ()
    headed: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = field(default=("pixel_mean", "pixel_std"))
    wrapper: str = ""

    def holds(self, names: Iterable[str]) -> bool:
        """Whether tensor names are those of this layout."""
        return any(name.startswith(self.marks) for name in names)

    def to_transformers(
        self,
        state: Mapping[str, T],
        join: Callable[[list[T]], T],
        divide: Callable[[T, int], list[T]] = _never,
        behead: Callable[[T], T] = _never,
    ) -> dict[str, T]:
        """Rename from the official layout.

        Args:
            state: official name -> anything.
            join: makes one of several, one after the other in their first dimension.
            divide: makes so many equal ones of one, the inverse of ``join``.
            behead: takes the first row in dimension 1 off.

        Returns:
            New name -> the same things; a table under both of its names; a name that no rule knows is kept,
            so that whoever checks the result can report it.

        Raises:
            ValueError: two names that become one, or a gap in those that are joined.
        """
        depths = _depths(state, self._official_mlps)
        renamed: dict[str, T] = {}
        groups: dict[str, dict[int, T]] = {}
        headed = dict(self.headed)
        for name, value in state.items():
            if name in self.ignored:
                continue
            part = self._part(name)
            if part is not None:
                groups.setdefault(part[0], {})[part[1]] = value
                continue
            several = self._several(name)
            if several:
                found = dict(zip(several, divide(value, len(several)), strict=True))
            elif name in headed:
                found = {headed[name]: behead(value)}
            else:
                found = {
                    _renamed(name, self._forward) or self._mlp_to_transformers(name, depths) or name: value
                }
            for new in found.keys() & renamed.keys():
                raise ValueError(f"holds '{new}' under two names")
            renamed |= found
        for new, parts in groups.items():
            if sorted(parts) != list(range(len(parts))) or new in renamed:
                raise ValueError(f"holds '{new}' in {len(parts)} parts that do not follow each other")
            renamed[new] = join([parts[number] for number in sorted(parts)])
        for stored, twin in self.twins:
            if stored in renamed:
                renamed.setdefault(twin, renamed[stored])
        return renamed

    def to_official(
        self,
        state: Mapping[str, T],
        split: Callable[[T], list[T]],
        join: Callable[[list[T]], T] = _never,
        head: Callable[[T], T] = _never,
    ) -> dict[str, T]:
        """Rename to the official layout; the inverse of :meth:`to_transformers`.

        Args:
            state: ``transformers`` name -> anything.
            split: makes one of each entry of the first dimension.
            join: as of :meth:`to_transformers`.
            head: puts a first row in dimension 1 that nothing reads.

        Raises:
            KeyError: a name that the official layout has no place for, or that lacks those it is fused with.
        """
        official, left_out = self.official_names(state), {twin for _, twin in self.twins}
        templates = {new: template for template, new in self.joined}
        headed = {new for _, new in self.headed}
        found: dict[str, T] = {}
        for name, value in state.items():
            several = self._several(official.get(name, ""))
            if name in templates:
                found |= {templates[name].format(i=i): part for i, part in enumerate(split(value))}
            elif name not in official:
                raise KeyError(name)
            elif several:
                if name == several[0]:
                    found[official[name]] = join([state[one] for one in several])
            elif name not in left_out:
                found[official[name]] = head(value) if name in headed else value
        return found

    def official_names(self, names: Mapping[str, Any]) -> dict[str, str]:
        """``transformers`` name -> official name, for those of ``names`` that the official layout has."""
        depths = _depths(names, self._hub_mlps)
        found = {
            name: _renamed(name, self._backward) or self._mlp_to_official(name, depths) for name in names
        }
        found |= {new: template.format(i=0) for template, new in self.joined if new in names}
        found |= {name: _renamed(name, self._apart) for name in names if found.get(name) is None}
        found |= {new: official for official, new in self.headed if new in names}
        found |= {twin: _renamed(stored, self._backward) for stored, twin in self.twins}
        return {name: new for name, new in found.items() if new is not None}

    def _part(self, name: str) -> tuple[str, int] | None:
        """Of a tensor that is joined with others: the name of all of them, and its number."""
        for pattern, new in self._joined:
            match = pattern.fullmatch(name)
            if match:
                return new, int(match["i"])
        return None

    def _several(self, name: str) -> list[str]:
        """Names of the tensors that one holds, or none."""
        for pattern, parts in self._fused:
            match = pattern.fullmatch(name)
            if match:
                return [part.format(**match.groupdict()) for part in parts]
        return []

    def _mlp_to_transformers(self, name: str, depths: Mapping[str, int]) -> str | None:
        """First and last layer have names of their own; those between count from 0."""
        head, mark, tail = name.rpartition(".layers.")
        match = re.fullmatch(r"(\d+)\.(weight|bias)", tail)
        new = _renamed(head, self._official_mlps) if mark and match else None
        if new is None or match is None:
            return None
        number, kind = int(match[1]), match[2]
        if number == 0:
            return f"{new}.proj_in.{kind}"
        return f"{new}.proj_out.{kind}" if number == depths[head] else f"{new}.layers.{number - 1}.{kind}"

    def _mlp_to_official(self, name: str, depths: Mapping[str, int]) -> str | None:
        match = re.fullmatch(r"(.*)\.(proj_in|proj_out|layers\.(\d+))\.(weight|bias)", name)
        new = _renamed(match[1], self._hub_mlps) if match else None
        if new is None or match is None:
            return None
        if match[2] == "proj_in":
            return f"{new}.layers.0.{match[4]}"
        between = depths.get(match[1], -1) + 1
        number = between + 1 if match[2] == "proj_out" else int(match[3]) + 1
        return f"{new}.layers.{number}.{match[4]}"

    @cached_property
    def _forward(self) -> Rules:
        return self._patterns(self.rules)

    @cached_property
    def _backward(self) -> Rules:
        return self._patterns([(hub, official) for official, hub in self.rules])

    @cached_property
    def _official_mlps(self) -> Rules:
        return self._patterns(self.mlps)

    @cached_property
    def _hub_mlps(self) -> Rules:
        return self._patterns([(hub, official) for official, hub in self.mlps])

    @cached_property
    def _joined(self) -> Rules:
        return self._patterns(self.joined)

    @cached_property
    def _fused(self) -> tuple[tuple[re.Pattern[str], tuple[str, ...]], ...]:
        places = {**PLACES, **self.places}
        return tuple((_pattern(official, places), parts) for official, parts in self.fused)

    @cached_property
    def _apart(self) -> Rules:
        return self._patterns((part, official) for official, parts in self.fused for part in parts)

    def _patterns(self, pairs: Iterable[tuple[str, str]]) -> Rules:
        places = {**PLACES, **self.places}
        return tuple((_pattern(template, places), other) for template, other in pairs)


Rules = tuple[tuple[re.Pattern[str], str], ...]
"""Expression for a full name, and the template of what becomes of it."""


def _pattern(template: str, places: Mapping[str, str]) -> re.Pattern[str]:
    """A rule's left or right side as an expression for full names."""
    parts = re.split(r"\{(\w+)\}", template)
    return re.compile(
        "".join(f"(?P<{part}>{places[part]})" if i % 2 else re.escape(part) for i, part in enumerate(parts))
    )


def _renamed(name: str, rules: Rules) -> str | None:
    for pattern, template in rules:
        match = pattern.fullmatch(name)
        if match:
            return template.format(**match.groupdict())
    return None


def _depths(names: Iterable[str], mlps: Rules) -> dict[str, int]:
    """The highest layer number of each MLP."""
    depths: dict[str, int] = {}
    for name in names:
        head, mark, tail = name.rpartition(".layers.")
        match = re.fullmatch(r"(\d+)\.(?:weight|bias)", tail)
        if mark and match and any(pattern.fullmatch(head) for pattern, _ in mlps):
            depths[head] = max(int(match[1]), depths.get(head, 0))
    return depths
