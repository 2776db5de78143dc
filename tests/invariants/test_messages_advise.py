"""Every message ends in what to do: read off the places in the source that raise saqsam's errors.

What is checked is the text that stands there. It says what to do if it asks for something (``give``,
``choose``, ``expected``, ...), or if its class adds a hint by itself. A text that is put together elsewhere
cannot be read here.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from saqsam import errors

SOURCE = Path(__file__).resolve().parents[2] / "src"
KINDS = {
    name: kind
    for name, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.SaqsamError)
}
BY_LINES = ("AnnotationError",)
"""Classes whose message is a list of problems, each made where the entry is read."""
ASKS = re.compile(
    r"\b(begin|give|gives|use|add|choose|name|set|take|leave|drop|remove|create|install|download|mend|check"
    r"|report|start|run|load|keep|make room|quantize|calibrate|export|encode|segment with|copy|write|put"
    r"|save|convert|ask|see|try|switch|look|upgrade|unset|pass|call|lower|raise it|allow|wait|delete|annotate"
    r"|expected|must|needs?|wants?|instead|only|at (most|least)|one of|belongs? to|did you mean|go with"
    r"|(formats|rows|engines|words|names|keys) are|is for|(is|are) written (as|in|into)|lists them|has no"
    r"|ends in|required|(is|are) (not from|outside|below)|import it|is segmented with"
    r"|say which|such as|goes on)\b"
    r"|, (got|found)\b|\?",
    re.IGNORECASE,
)
"""Words that ask for something, or say what would be right."""


def raised() -> Iterator[tuple[str, str, str]]:
    """Place, name of the class, and the words that stand there, of every error made in the source."""
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS:
                words = [
                    one.value
                    for argument in (*node.args, *(keyword.value for keyword in node.keywords))
                    for one in ast.walk(argument)
                    if isinstance(one, ast.Constant) and isinstance(one.value, str)
                ]
                yield f"{path.relative_to(SOURCE.parent)}:{node.lineno}", node.func.id, " ".join(words)


def advises(kind: str, words: str) -> bool:
    """Whether a message says what to do, as far as its text stands in the source.

    A hint after the last semicolon, or all but a few words, may be put together elsewhere: that passes.
    """
    elsewhere = words.rstrip().endswith(";") or len(re.findall(r"[A-Za-z]{2,}", words)) <= 2
    return elsewhere or bool(getattr(KINDS[kind], "hint_if_none", "") or ASKS.search(words))


def test_every_message_ends_in_what_to_do() -> None:
    silent = [
        f"{place}: {kind}: {words}"
        for place, kind, words in raised()
        if kind not in BY_LINES and not advises(kind, words)
    ]
    assert not silent, "these messages do not say what to do next:\n" + "\n".join(silent)


@pytest.mark.parametrize(
    ("kind", "words", "good"),
    [
        ("UsageError", ": the list of files is empty", False),
        ("UsageError", ": the list of files is empty; give at least one", True),
        ("RecipeError", ": not valid YAML ( )", False),
        ("UsageError", ": ", True),
    ],
)
def test_a_message_without_advice_is_found(kind: str, words: str, good: bool) -> None:
    assert advises(kind, words) is good


def test_the_source_is_read() -> None:
    assert len(list(raised())) > 200
