"""``export --format web``: a folder that any static server can offer, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saqsam import __version__
from saqsam.errors import UsageError
from saqsam.export.write import write_together
from saqsam.extras import require_onnx
from saqsam.web.examples import examples
from saqsam.web.runtime import VERSION, runtime_files

if TYPE_CHECKING:
    from saqsam.export.parity import Parity
    from saqsam.web.models import Progress

MANIFEST = "manifest.json"
FOLDERS = ("model", "compared")
"""Of the files of the first and of the second model."""


@dataclass(frozen=True)
class WebExported:
    """What was written.

    Attributes:
        directory: of the files.
        bytes: size of each file by its path in it.
        parities: of each model, ``None`` where verification was declined.
    """

    directory: Path
    bytes: dict[str, int]
    parities: list[Parity | None]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        parities = [None if one is None else one.to_dict() for one in self.parities]
        return {"directory": str(self.directory), "bytes": self.bytes, "parity": parities}


def page_files() -> dict[str, bytes]:
    """The page itself by file name: HTML, style sheet, modules, icon."""
    folder = files("saqsam.web").joinpath("page")
    return {one.name: one.read_bytes() for one in folder.iterdir() if one.is_file()}


def export_web(
    models: Sequence[str | Path],
    directory: str | Path,
    *,
    images: Path | None = None,
    annotations: Path | None = None,
    limit: int = 4,
    verify: bool = True,
    progress: Progress = lambda stage, done, total: None,
) -> WebExported:
    """Write a page that computes one or two models in the browser.

    Args:
        models: float or packed ones; with two the page compares them.
        directory: created if missing; files of the same names in it are replaced.
        images: folder of images to verify on; ``None`` takes generated scenes.
        annotations: COCO instances of these images.
        limit: how many images to verify on.
        verify: compare the graphs with the model before anything is written.
        progress: called with a stage's name, steps done and steps in total.

    Raises:
        UsageError: onnx is not installed, or not one or two models.
        CheckpointError: a model cannot be read. InvariantError: graphs are not their model.
        SaqsamError: the files cannot be written; none of them is left.
    """
    require_onnx()
    from saqsam.export.cases import cases_for
    from saqsam.web.models import read_model, web_parts

    if not 1 <= len(models) <= len(FOLDERS):
        raise UsageError(f"a page shows one model, or two side by side; give one or two, not {len(models)}")
    cases = cases_for(images, annotations, limit) if verify else []
    contents = page_files() | {f"ort/{name}": data for name, data in runtime_files().items()}
    entries, parities = [], []
    for source, folder in zip(models, FOLDERS, strict=False):
        parts = web_parts(read_model(source), cases, verify, progress)
        contents |= {f"{folder}/{name}": data for name, data in parts.files.items()}
        for row in parts.entry["files"].values():
            row["path"] = f"{folder}/{row['path']}"
        entries.append(parts.entry)
        parities.append(parts.parity)
    shown = examples()
    contents |= {f"examples/{name}": data for name, (_, data) in shown.items()}
    contents[MANIFEST] = manifest(entries, {name: title for name, (title, _) in shown.items()}, contents)
    write_together(Path(directory), contents)
    return WebExported(Path(directory), {name: len(data) for name, data in contents.items()}, parities)


def manifest(entries: Sequence[dict[str, Any]], titles: dict[str, str], contents: dict[str, bytes]) -> bytes:
    """What the page reads first, as JSON."""
    runtime = {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in contents.items()
        if name.startswith("ort/")
    }
    found = {
        "format": "saqsam-web",
        "version": 1,
        "saqsam": __version__,
        "engine": {"kind": "browser", "name": f"onnxruntime-web {VERSION}", "files": runtime},
        "models": list(entries),
        "examples": [{"path": f"examples/{name}", "title": title} for name, title in titles.items()],
    }
    return (json.dumps(found, indent=2) + "\n").encode()
