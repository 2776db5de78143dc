"""ONNX Runtime for browsers: the three files of ``onnxruntime-web`` that a page needs, packed with saqsam.

They are stored compressed, as they came from npm, and are compared with their SHA-256 whenever they are taken
out, so that what a page loads is what was published.
"""

from __future__ import annotations

import hashlib
import lzma
from importlib.resources import files

from saqsam.errors import SaqsamError

VERSION = "1.30.0"
"""Of the npm package ``onnxruntime-web``; its licence, MIT, is beside the files."""

SHA256 = {
    "ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
    "ort-wasm-simd-threaded.mjs": "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
LICENSE = "LICENSE"


def runtime_files() -> dict[str, bytes]:
    """The files by name, with the text of the licence.

    Raises:
        SaqsamError: one of them is missing or is not the published one; saqsam has to be installed again.
    """
    folder = files("saqsam.web").joinpath("ort")
    found: dict[str, bytes] = {}
    try:
        for name, digest in SHA256.items():
            found[name] = lzma.decompress(folder.joinpath(f"{name}.xz").read_bytes())
            if hashlib.sha256(found[name]).hexdigest() != digest:
                raise SaqsamError(f"saqsam's copy of {name} is not the published one; install saqsam again")
        found[LICENSE] = folder.joinpath(LICENSE).read_bytes()
    except (OSError, lzma.LZMAError) as error:
        raise SaqsamError(
            f"saqsam's copy of onnxruntime-web {VERSION} cannot be read ({error}); install saqsam again"
        ) from error
    return found
