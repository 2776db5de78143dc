"""A grid is one class: no other file asks for its name, or which of the classes it is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from saqsam.grids.registry import find_grid, grid_names

ROOT = Path(__file__).resolve().parents[2] / "src" / "saqsam"
NAMES = set(grid_names())
CLASSES = {kind.__name__ for name in NAMES if (kind := find_grid(name)) is not None}


def asks(path: Path) -> Iterator[str]:
    """Every place where a file looks at which grid it has to do with, as ``line: code``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        looked: list[ast.AST] = []
        if isinstance(node, ast.Compare):
            looked = [node.left, *node.comparators]
        elif isinstance(node, ast.match_case):
            looked = [node.pattern]
        elif isinstance(node, ast.Dict):
            looked = [key for key in node.keys if key is not None]
        elif isinstance(node, ast.Subscript):
            looked = [node.slice]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
            looked = [node.args[1]]
        for part in looked:
            for inner in ast.walk(part):
                constant = isinstance(inner, ast.Constant) and inner.value in NAMES
                named = isinstance(inner, ast.Name) and inner.id in CLASSES
                if (constant or named) and not _is_rule_or_word(node, path):
                    yield f"{inner.lineno}: {ast.unparse(node)[:80]}"  # type: ignore[attr-defined]


def _is_rule_or_word(node: ast.AST, path: Path) -> bool:
    """Range rules are registered by class, and a recipe's keys list the words that they may be."""
    table = isinstance(node, ast.Dict) and path == ROOT / "calibrate" / "rules.py"
    word = isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal"
    return table or (word and path.parent == ROOT / "recipe")


def test_no_file_outside_grids_asks_which_grid_it_is() -> None:
    files = [path for path in sorted(ROOT.rglob("*.py")) if path.parent != ROOT / "grids"]
    found = [f"{path.relative_to(ROOT)}:{line}" for path in files for line in asks(path)]
    assert not found


@pytest.mark.parametrize(
    "code",
    [
        "if grid == 'log2':\n    pass",
        "found = quantizer.kind.name in ('grouped', 'hybrid')",
        "found = quantizer.kind is Log2",
        "found = isinstance(quantizer.grid, Grouped)",
        "table = {'affine': 1}",
        "match grid:\n    case 'hybrid':\n        pass",
    ],
)
def test_the_test_sees_what_it_looks_for(tmp_path: Path, code: str) -> None:
    source = tmp_path / "sample.py"
    source.write_text(code)
    assert list(asks(source))
