"""From a packed file to exported files, in one call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from saqsam.errors import UsageError
from saqsam.export.write import Exported, export_onnx
from saqsam.extras import require_onnx
from saqsam.graphs.build import OPSETS
from saqsam.pack.convert import from_packed
from saqsam.pack.file import is_packed, read_packed
from saqsam.torch_state import as_documented


@as_documented
def export_file(
    path: str | Path,
    directory: str | Path,
    *,
    opset: int = OPSETS[0],
    images: Path | None = None,
    annotations: Path | None = None,
    limit: int = 4,
    verify: bool = True,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Exported:
    """Export a packed file as ONNX; see :func:`saqsam.export.write.export_onnx`.

    Args:
        path: a packed file.
        directory: for ``encoder.onnx``, ``decoder.onnx`` and ``parity.json``.
        opset: 21, 22 or 23.
        images: folder of images to verify on; ``None`` takes generated scenes.
        annotations: COCO instances of these images.
        limit: how many images to verify on.
        verify: compare with the audited model before anything is written.
        progress: called with a stage's name, steps done and steps in total.

    Raises:
        UsageError: the file is no packed one, onnx is not installed, or an option has no meaning.
        CheckpointError: the file is damaged. InvariantError: the graphs are not the model.
    """
    require_onnx()
    from saqsam.export.cases import cases_for

    if opset not in OPSETS:
        raise UsageError(f"opset {opset}: graphs are written in opset {', '.join(map(str, OPSETS))}")
    if not is_packed(path):
        raise UsageError(
            f"{path}: not a packed file; a float model is exported by other tools. Write a packed one with: "
            "saqsam quantize"
        )
    packed = read_packed(path)
    model, _ = from_packed(packed, path)
    packed = replace(packed, config=model.config.to_dict())  # checked, where the file's own need not be
    cases = cases_for(images, annotations, limit) if verify else []
    return export_onnx(packed, model, directory, cases, opset=opset, verify=verify, progress=progress)
