"""``saqsam demo``: the whole pipeline on the shipped model and generated scenes, in minutes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from saqsam.cli.arguments import ForceOption, JsonOption, make_directory
from saqsam.cli.output import print_json, print_lines, print_table
from saqsam.cli.progress import progress
from saqsam.cli.results import percent, share


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for everything the demo makes.")] = Path(
        "demo-output"
    ),
    images: Annotated[int, typer.Option("--images", help="Test images to generate.", min=1)] = 24,
    calibration: Annotated[
        int, typer.Option("--calibration", help="Calibration images to generate.", min=1)
    ] = 32,
    pictures: Annotated[int, typer.Option("--pictures", help="Test images to draw.", min=0)] = 6,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Quantize the shipped models in several ways, pack, verify, reload, measure, and draw."""
    make_directory(out, "--out", force)
    started = time.perf_counter()
    from saqsam.cli.demo_run import run_demo

    with progress() as report:
        rows, drawn = run_demo(out, images, calibration, pictures, report)
    seconds = round(time.perf_counter() - started, 1)
    if json:
        print_json(
            {
                "rows": [row.to_dict() for row in rows],
                "pictures": [str(path) for path in drawn],
                "seconds": seconds,
            }
        )
        return
    print_table(
        f"{images} generated test images, prompted with ground-truth boxes",
        ["model", "method", "bits", "mask AP", "mIoU", "agreement", "file MB"],
        [
            [
                row.model,
                row.method,
                row.bits,
                percent(row.AP),
                share(row.mIoU),
                share(row.agreement),
                f"{row.file_bytes / 1e6:.2f}",
            ]
            for row in rows
        ],
        right=3,
    )
    lines = [
        "mIoU is against ground truth, agreement is mIoU with the float model's masks; both from 0 to 1.",
        f"packed files: {out / 'packed'} (try: saqsam inspect FILE, saqsam verify FILE)",
    ]
    if drawn:
        lines.append(f"pictures, float beside 4-bit: {out / 'pictures'}")
    print_lines([*lines, f"{seconds:.0f} s"])
