"""``saqsam export --format web``: a folder with a page that runs a model in the browser."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from saqsam.cli.arguments import check_directory, check_file, make_directory
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
    existed = out.is_dir()
    make_directory(out, "--out", force)
    try:
        from saqsam.web.write import export_web

        with progress() as report:
            done = export_web(
                models,
                out,
                images=images,
                annotations=annotations,
                limit=limit,
                verify=verify,
                progress=report,
            )
    except BaseException:
        if not existed and out.is_dir() and not any(out.iterdir()):
            out.rmdir()
        raise
    if json:
        print_json(done.to_dict())
        return
    lines = [f"{out}: {megabytes(sum(done.bytes.values()))} in {len(done.bytes)} files"]
    for model, parity in zip(models, done.parities, strict=True):
        lines.append(
            f"{model}: not verified"
            if parity is None
            else f"{model}: mask IoU with the model {parity.mask_iou:.4f} from pixels, "
            f"{parity.decoder_mask_iou:.4f} from its embedding ({parity.prompts} prompts); "
            f"the model with itself under rounding errors: {parity.repeatability:.4f}"
        )
    print_lines([*lines, f"look at it with: saqsam serve {out}"])
