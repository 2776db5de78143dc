"""The files that a server offers by GET: the page and its examples, or an exported folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from saqsam.errors import CheckpointError
from saqsam.web.examples import examples
from saqsam.web.write import MANIFEST, page_files

KINDS = {
    ".html": "text/html; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".wasm": "application/wasm",
    ".onnx": "application/octet-stream",
}
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
"""Of every answer: the page is isolated, so that it may use threads, and asks nobody else."""


@dataclass(frozen=True)
class Content:
    """What a GET gives: its type, its bytes, and a tag that changes with them."""

    kind: str
    data: bytes
    tag: str


class Site:
    """Files by path, read when they are asked for; nothing outside of the list is ever opened."""

    def __init__(self, files: dict[str, Callable[[], bytes]]) -> None:
        self._files = files

    def find(self, path: str) -> Content | None:
        """The file at a path without its leading slash; the page itself at ""."""
        name = path or "index.html"
        read = self._files.get(name)
        if read is None:
            return None
        data = read()
        kind = KINDS.get(Path(name).suffix, "text/plain; charset=utf-8")
        return Content(kind, data, f'"{hashlib.sha256(data).hexdigest()[:32]}"')


def page_site(manifest: Callable[[dict[str, str]], bytes]) -> Site:
    """The page as it comes with saqsam, its examples, and a manifest made of their titles."""
    found = page_files()
    shown = examples()
    found |= {f"examples/{name}": data for name, (_, data) in shown.items()}
    found[MANIFEST] = manifest({name: title for name, (title, _) in shown.items()})
    return Site({name: lambda data=data: data for name, data in found.items()})  # type: ignore[misc]


def folder_site(folder: Path) -> Site:
    """A folder written by ``saqsam export --format web``.

    Raises:
        CheckpointError: it is no such folder.
    """
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        is_page = found["format"] == "saqsam-web"
    except (OSError, ValueError, KeyError, TypeError):
        is_page = False
    if not is_page:
        raise CheckpointError(
            folder, "is a folder without a page", "Write one with: saqsam export MODEL --format web --out DIR"
        )
    files = [one for one in folder.rglob("*") if one.is_file()]
    return Site({one.relative_to(folder).as_posix(): one.read_bytes for one in files})
