"""The shape of the package: which way imports go, what its code never does, how long a file may be."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "src" / "saqsam"
FILES = sorted(ROOT.rglob("*.py"))

FLOW = (
    ("errors", "torch_state", "freed_memory", "quiet", "visible"),
    ("files", "extras"),
    ("grids", "images", "scenes"),
    ("recipe",),
    ("datasets",),
    ("prompts",),
    ("modules",),
    ("families",),
    ("models",),
    ("segment",),
    ("shipped",),
    ("checkpoints",),
    ("calibrate",),
    ("folds",),
    ("clip",),
    ("jobs",),
    ("reconstruct",),
    ("pack",),
    ("pipeline",),
    ("mixed",),
    ("dry_run",),
    ("detectors",),
    ("everything",),
    ("tasks",),
    ("drop_in",),
    ("sam",),
    ("report",),
    ("graphs",),
    ("native",),
    ("engines",),
    ("export",),
    ("bench",),
    ("many",),
    ("api",),
    ("published",),
    ("reproduce",),
    ("web",),
    ("serve",),
    ("cli",),
)
"""Every unit, in the order of the work: a unit imports those of the rows above its own, and no other."""
RANK = {name: rank for rank, names in enumerate(FLOW) for name in names}
OUTSIDE = {"__init__", "__main__"}
"""They import whatever the public names need."""


def unit_of(path: Path) -> str:
    """Folder below ``saqsam``, or the module's own name."""
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Units of saqsam that a file imports when it is run, at its top or inside a function, and the line."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    only_for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in only_for_types:
            continue
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are written in full here"
            base = node.module or ""
            names = [f"saqsam.{alias.name}" for alias in node.names] if base == "saqsam" else [base]
        for name in names:
            parts = name.split(".")
            if parts[0] == "saqsam" and len(parts) > 1 and parts[1] != "__version__":
                yield parts[1], node.lineno


def against_the_flow(path: Path, unit: str) -> list[str]:
    """Imports of a file, taken as one of ``unit``, that run sideways or back."""
    return [
        f"{path}:{line} imports {other}"
        for other, line in imports(path)
        if other != unit and RANK[other] >= RANK[unit]
    ]


def test_every_unit_has_its_place() -> None:
    assert {unit_of(path) for path in FILES} - OUTSIDE == set(RANK)


def test_contributing_lists_the_units_in_this_order() -> None:
    text = " ".join((ROOT.parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8").split())
    begin = "order of the work: "
    listed = text[text.index(begin) + len(begin) : text.index(". A unit imports")]
    places = [RANK[name] for name in re.findall(r"`(\w+)`", listed)]
    assert places == sorted(places)
    assert len(places) == len(RANK)


def test_contributings_map_shows_every_unit_and_names_files_that_are_there() -> None:
    text = (ROOT.parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    drawn = set(re.findall(r"\w+", text[text.index("```\nannotations") : text.index("| to add |")]))
    for_all = {"errors", "torch_state", "freed_memory", "quiet", "visible", "files", "extras"}
    assert RANK.keys() - for_all <= drawn
    named = re.findall(r"`(\w+/\w+\.py)`", text)
    assert named
    assert [name for name in named if "NAME" not in name and not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    """Also those inside functions; what only type checkers read may point anywhere."""
    if unit_of(path) not in OUTSIDE:
        assert against_the_flow(path, unit_of(path)) == []


@pytest.mark.parametrize(
    ("unit", "line"),
    [
        ("images", "from saqsam.models.sites import Site"),
        ("images", "def f():\n    from saqsam.segment.predictor import predict"),
        ("sam", "def f():\n    from saqsam import api"),
        ("prompts", "from saqsam.tasks.instance import evaluate_instances"),
        ("grids", "import saqsam.modules.quantizer"),
        ("grids", "from saqsam.scenes import make_scene"),
    ],
)
def test_an_import_against_the_flow_is_seen(tmp_path: Path, unit: str, line: str) -> None:
    source = tmp_path / "sample.py"
    source.write_text(line)
    assert against_the_flow(source, unit)


def test_nothing_but_the_command_line_imports_it() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in FILES
        if unit_of(path) != "cli"
        for unit, line in imports(path)
        if unit == "cli" and path != ROOT / "__main__.py"
    ]
    assert not wrong


def test_the_direction_test_sees_what_it_looks_for(tmp_path: Path) -> None:
    source = tmp_path / "sample.py"
    source.write_text(
        "from typing import TYPE_CHECKING\nimport saqsam.api\nfrom saqsam import sam\n"
        "if TYPE_CHECKING:\n    from saqsam.cli import app\n"
        "def late():\n    from saqsam.pack.bits import pack\n"
    )
    assert list(imports(source)) == [("api", 2), ("sam", 3), ("pack", 7)]


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call with the text of what is called."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def faults(path: Path) -> Iterator[str]:
    """What the house rules forbid, as ``line: what``."""
    text = path.read_text(encoding="utf-8")
    for name, call in calls(path):
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if name == "print":
            yield f"{call.lineno}: print"
        if name.endswith(".cuda"):
            yield f"{call.lineno}: .cuda()"
        if name == "torch.load" and keywords.get("weights_only") != "True":
            yield f"{call.lineno}: torch.load without weights_only=True"
        if name in ("yaml.load", "yaml.load_all") and keywords.get("Loader") != "_StrictLoader":
            yield f"{call.lineno}: {name} without the strict loader"
        if name in ("pickle.load", "pickle.loads", "eval", "exec", "torch.manual_seed", "np.random.seed"):
            yield f"{call.lineno}: {name}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield f"{node.lineno}: bare except"
        value = node.value if isinstance(node, ast.Constant) else None
        if isinstance(value, str) and re.match(r"/(home|work|mnt|root|tmp)\b|[A-Z]:\\", value):
            yield f"{node.lineno}: an absolute path"
        if isinstance(node, ast.Global):
            yield f"{node.lineno}: global state"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_code_does_nothing_forbidden(path: Path) -> None:
    assert not list(faults(path))


FORBIDDEN = [
    "print(1)",
    "x.cuda()",
    "torch.load(f)",
    "torch.load(f, weights_only=False)",
    "yaml.load(f, Loader=yaml.Loader)",
    "eval('1')",
    "try:\n    pass\nexcept:\n    pass",
    "path = '/home/somebody/sam.pth'",
    "def f():\n    global x",
]


@pytest.mark.parametrize("code", FORBIDDEN)
def test_the_fault_finder_finds_faults(tmp_path: Path, code: str) -> None:
    source = tmp_path / "sample.py"
    source.write_text(code)
    assert list(faults(source))


def test_files_are_short_enough_to_read() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines()) for path in FILES}
    assert {name: length for name, length in lengths.items() if length > 400} == {}
