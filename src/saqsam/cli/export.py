"""``saqsam export``: a packed model as ONNX files, as a page, or as a directory that other libraries load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saqsam.cli.arguments import (
    ForceOption,
    JsonOption,
    MaxPixelsOption,
    check_directory,
    check_file,
)
from saqsam.cli.export_folder import folder_for_results, masks_compared
from saqsam.cli.export_web import export_page
from saqsam.cli.output import megabytes, print_json, print_lines
from saqsam.cli.packed import packed_argument
from saqsam.cli.progress import progress
from saqsam.errors import UsageError


def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A packed model, as written by quantize; for web also a float one."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the files.", metavar="DIR")],
    format: Annotated[
        str, typer.Option("--format", help="onnx, web, transformers or compressed-tensors.")
    ] = "onnx",
    compare: Annotated[
        str | None,
        typer.Option(
            "--compare",
            help="For web: a second model, shown beside MODEL; both may be float.",
            metavar="MODEL",
        ),
    ] = None,
    opset: Annotated[int, typer.Option("--opset", help="ONNX operator set: 21, 22 or 23.")] = 21,
    images: Annotated[
        Path | None,
        typer.Option("--images", help="Images to verify on; generated scenes by default.", metavar="DIR"),
    ] = None,
    annotations: Annotated[
        Path | None,
        typer.Option("--annotations", help="COCO instances json whose boxes prompt.", metavar="FILE"),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", help="Images to verify on.", min=1, metavar="N")] = 4,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Compare with the model before writing.")
    ] = True,
    force: ForceOption = False,
    max_pixels: MaxPixelsOption = None,
    json: JsonOption = False,
) -> None:
    """Write encoder.onnx, decoder.onnx and parity.json, once they are seen to give the model's masks;
    a page that runs the model in the browser; or a directory that ``transformers`` loads."""
    if compare is not None and format != "web":
        raise UsageError(f"--compare: pages show two models, --format {format} holds one; leave it out")
    if format == "web":
        export_page(
            [model, compare] if compare else [model], out, images, annotations, limit, verify, force, json
        )
        return
    if format in ("transformers", "compressed-tensors"):
        _export_directory(model, format, out, force, json)
        return
    if format != "onnx":
        raise UsageError(f"--format {format}: the formats are onnx, web, transformers and compressed-tensors")
    path = packed_argument(model, "export")
    if images is not None:
        check_directory(images, "--images")
    if annotations is not None:
        check_file(annotations, "--annotations")
    with folder_for_results(out, force), progress() as report:
        from saqsam.export.api import export_file

        done = export_file(
            path,
            out,
            opset=opset,
            images=images,
            annotations=annotations,
            limit=limit,
            verify=verify,
            progress=report,
        )
    if json:
        print_json(done.to_dict())
        return
    lines = [f"{out / name}: {megabytes(size)}" for name, size in done.bytes.items()]
    if done.parity is None:
        lines.append("not verified")
    else:
        lines += [
            f"{done.parity.equal_codes:.4%} of the encoder's codes equal, block by block, "
            f"{done.parity.decoder_equal_codes:.4%} of the decoder's ({done.parity.sites} sites)",
            masks_compared(done.parity),
        ]
    print_lines(lines)


def _export_directory(model: str, format: str, out: Path, force: bool, json: bool) -> None:
    from saqsam import api

    sam = api.load(packed_argument(model, "export"))
    with folder_for_results(out, force):
        if format == "transformers":
            sam.save_pretrained(out)
        else:
            from saqsam.drop_in.compressed import write_compressed

            write_compressed(sam, out)
    sizes = {path.name: path.stat().st_size for path in sorted(out.iterdir())}
    if json:
        print_json({"format": format, "bytes": sizes})
        return
    print_lines([f"{out / name}: {megabytes(size)}" for name, size in sizes.items()])
