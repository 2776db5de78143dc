"""Grids by the names that recipes and files know them by."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from saqsam.grids.grid import Grid

_G = TypeVar("_G", bound="type[Grid]")

_OWN = ("affine", "log2", "grouped", "hybrid")
"""Grids of this package; each is in the module of its name, which registers it when it is first asked for."""
_registered: dict[str, type[Grid]] = {}


def register_grid(kind: _G) -> _G:
    """Make a grid known by its name, so that recipes and packed files may use it; a class decorator.

    Raises:
        ValueError: another grid has this name.
    """
    if _registered.setdefault(kind.name, kind) is not kind:
        raise ValueError(f"there is a grid '{kind.name}' already; give this one another name")
    return kind


def unregister_grid(kind: type[Grid]) -> None:
    """Forget a grid that was registered."""
    _registered.pop(kind.name, None)


def grid_names() -> tuple[str, ...]:
    """All names, those of this package first; importing nothing."""
    return (*_OWN, *(name for name in _registered if name not in _OWN))


def find_grid(name: str) -> type[Grid] | None:
    """The grid of a name, or ``None``."""
    if name in _OWN:
        import_module(f"saqsam.grids.{name}")
    return _registered.get(name)
