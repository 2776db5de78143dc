"""Nothing outside of ``families`` knows how a model is put together."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "src" / "saqsam"
ALLOWED = {"checkpoints/official.py", "checkpoints/within.py", "recipe/fields.py"}
"""The official layout, names as they stand in files that hold more than a SAM, an example in a help text."""
ELSEWHERE = ("families/", "detectors/")
"""Detectors are other networks; some of their modules have the same names."""
FILES = [
    path
    for path in sorted(ROOT.rglob("*.py"))
    if (name := path.relative_to(ROOT).as_posix()) not in ALLOWED and not name.startswith(ELSEWHERE)
]
MODULES = re.compile(
    r"\b(vision_encoder\.\w+|mask_decoder\.\w+|prompt_encoder\.\w+|shared_image_embedding|lin1|lin2|out_proj"
    r"|[qkv]_proj|qkv|rel_pos_[hw]|iou_token|mask_tokens|upscale_conv[12]|patch_embed|pos_embed"
    r"|output_hypernetworks_mlps|iou_prediction_head|cross_attn_\w+|self_attn)\b"
)
ATTRIBUTES = re.compile(r"(vision_encoder|mask_decoder|prompt_encoder)")


def knowledge(path: Path) -> Iterator[str]:
    """Names of modules in attributes and texts (not in docstrings), and imports of model classes."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (
            MODULES.fullmatch(node.attr) or ATTRIBUTES.fullmatch(node.attr)
        ):
            yield f"{node.lineno}: .{node.attr}"
        text = node.value if isinstance(node, ast.Constant) and id(node) not in docs else None
        if isinstance(text, str) and MODULES.search(text):
            yield f"{node.lineno}: {text!r:.60}"
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("transformers"):
            named = {alias.name for alias in node.names} & {"SamModel", "SamConfig"}
            if named or "modeling_sam" in str(node.module):
                yield f"{node.lineno}: imports a class of models from {node.module}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_only_families_name_modules(path: Path) -> None:
    assert list(knowledge(path)) == []


@pytest.mark.parametrize(
    "code",
    [
        "x = model.vision_encoder",
        "x = layer.mlp.lin1",
        "x = f'vision_encoder.layers.{0}'",
        "from transformers.models.sam.modeling_sam import SamAttention",
        "from transformers import SamModel",
    ],
)
def test_knowledge_is_found(tmp_path: Path, code: str) -> None:
    source = tmp_path / "sample.py"
    source.write_text(code)
    assert list(knowledge(source))
