"""Recipes by name, with bit widths in the name, or from a file; then adjusted by settings."""

from __future__ import annotations

import difflib
import re
from importlib import resources
from pathlib import Path
from typing import Any

from saqsam.errors import RecipeError
from saqsam.files import expanded
from saqsam.recipe.fields import Recipe
from saqsam.recipe.schema import kind_of
from saqsam.recipe.settings import Settings, apply_settings
from saqsam.recipe.strict_yaml import parse_yaml, read_yaml

SHIPPED = (
    *("rtn", "percentile", "mse", "adaround", "brecq", "qdrop"),
    *("ptq4sam-s", "ptq4sam-l", "ptq4sam-l-paper", "ahcptq", "saq-sam-star", "saq-sam-fast", "saq-sam"),
    *("saq-sam-paper", "best-closed-form", "best"),
)
"""The recipes in this package, from the simplest to the whole method."""

_BITS = re.compile(r"w(\d+)a(\d+)", re.IGNORECASE)


def list_recipes() -> list[Recipe]:
    """The shipped recipes at their default bit widths, simplest first."""
    return [load_recipe(name) for name in SHIPPED]


def load_recipe(name_or_path: str | Path, *, bits: str | None = None, settings: Settings = ()) -> Recipe:
    """A recipe by name (``"mse"``, ``"saq-sam-star-w6a6"``) or from a YAML file, then adjusted.

    Args:
        name_or_path: a shipped recipe's name, optionally ending in ``-wXaY``, or a path (``~`` is the home
            directory).
        bits: ``"w4a8"``: weight and activation bits (2 to 8) of both encoder and decoder.
        settings: ``("clip.focus_threshold=0.6", ...)``, or a mapping such as ``{"clip.sweeps": 3}`` or
            ``{"clip": {"sweeps": 3}}``; applied last, in order.

    Raises:
        RecipeError: no such recipe or key (the nearest is named), bad value, unreadable file.
    """
    text = str(name_or_path)
    stem, suffix = _split_bits(text)
    if text in SHIPPED or stem in SHIPPED:
        if suffix and bits and suffix.lower() != bits.lower():
            raise RecipeError(f"recipe '{text}' asks for {suffix} and bits for {bits}; give one of them")
        data = parse_yaml(_shipped_text(stem), stem)
        bits = bits or suffix
    elif _looks_like_a_path(text):
        data = read_yaml(expanded(text))
        if not isinstance(data, dict):
            raise RecipeError(f"{text}: a recipe is a mapping of keys, found {kind_of(data)}")
    else:
        raise RecipeError(_no_such_recipe(text, stem))
    if bits:
        _apply_bits(data, bits)
    apply_settings(data, settings)
    try:
        return Recipe.from_dict(data)
    except RecipeError as error:
        raise RecipeError(f"recipe {text}: {error}") from error


def parse_bits(text: str) -> tuple[int, int]:
    """``"w4a8"`` → (4, 8): weight bits, activation bits.

    Raises:
        RecipeError: another shape, or bits outside 2 to 8.
    """
    match = _BITS.fullmatch(text)
    if match is None:
        raise RecipeError(f"bits '{text}': expected the form w4a4 (weight bits, activation bits)")
    weights, activations = int(match[1]), int(match[2])
    for count, what in ((weights, "weight"), (activations, "activation")):
        if not 2 <= count <= 8:
            raise RecipeError(f"bits '{text}': {count} {what} bits are outside 2 to 8")
    return weights, activations


def _split_bits(text: str) -> tuple[str, str | None]:
    stem, dash, tail = text.rpartition("-")
    return (stem, tail) if dash and _BITS.fullmatch(tail) else (text, None)


def _looks_like_a_path(text: str) -> bool:
    return text.endswith((".yaml", ".yml")) or "/" in text or "\\" in text or Path(text).is_file()


def _no_such_recipe(text: str, stem: str) -> str:
    honest = stem.removeprefix("as-published-")
    if honest != stem and honest in SHIPPED:
        return (
            f"recipe '{text}': what it makes is not on the grid and cannot be stored; use '{honest}', or "
            f"'saqsam evaluate --as-published {honest}' to see its figure beside an honest one"
        )
    near = difflib.get_close_matches(stem.lower(), SHIPPED, n=1, cutoff=0.4)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"no recipe '{text}'; {hint}shipped recipes: {', '.join(SHIPPED)}; a file's name ends in .yaml"


def _shipped_text(name: str) -> str:
    return (resources.files("saqsam") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")


def _apply_bits(data: dict[str, Any], bits: str) -> None:
    weights, activations = parse_bits(bits)
    for half in ("encoder", "decoder"):
        data[half] = {"weights": weights, "activations": activations}
