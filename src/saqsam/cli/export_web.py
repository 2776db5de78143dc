"""``saqsam export --format web``: a folder with a page that runs a model in the browser."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from saqsam.cli.arguments import check_directory, check_file
from saqsam.cli.export_folder import folder_for_results, masks_compared
from saqsam.cli.output import megabytes, print_json, print_lines
from saqsam.cli.progress import progress


def export_page(
    models: Sequence[str],
    out: Path,
    images: Path | None,
    annotations: Path | None,
    limit: int,
    verify: bool,
    force: bool,
    json: bool,
) -> None:
    """Write the page, print what it weighs and how equal its models are.

    Raises:
        UsageError: ``out`` holds files, or a model cannot be written as graphs.
        CheckpointError: a model cannot be read. InvariantError: the graphs are not the model.
    """
    if images is not None:
        check_directory(images, "--images")
    if annotations is not None:
        check_file(annotations, "--annotations")
    with folder_for_results(out, force), progress() as report:
        from saqsam.web.write import export_web

        done = export_web(
            models,
            out,
            images=images,
            annotations=annotations,
            limit=limit,
            verify=verify,
            progress=report,
        )
    if json:
        print_json(done.to_dict())
        return
    lines = [f"{out}: {megabytes(sum(done.bytes.values()))} in {len(done.bytes)} files"]
    for model, parity in zip(models, done.parities, strict=True):
        lines.append(f"{model}: {'not verified' if parity is None else masks_compared(parity)}")
    print_lines([*lines, f"look at it with: saqsam serve {out}"])
