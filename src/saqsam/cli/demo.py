"""``saqsam demo``: the whole pipeline on the shipped models, generated scenes and photographs, in minutes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saqsam.cli.arguments import (
    ForceOption,
    JsonOption,
    MaxPixelsOption,
    check_file,
    make_directory,
    numbers,
)
from saqsam.cli.output import megabytes, print_json, print_lines, print_table
from saqsam.cli.progress import progress
from saqsam.cli.results import percent, share
from saqsam.errors import UsageError

if TYPE_CHECKING:
    from saqsam.cli.demo_photographs import Shown
    from saqsam.cli.demo_prompts import Photograph
    from saqsam.cli.demo_run import Row

NO_PHOTOGRAPHS = (
    "no photographs were drawn: scikit-image, whose package brings some, is not installed; install it with "
    "pip install 'saqsam[demo]', or use your own: saqsam demo --image FILE --box X0,Y0,X1,Y1"
)


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for everything the demo makes.")] = Path(
        "demo-output"
    ),
    images: Annotated[int, typer.Option("--images", help="Test images to generate.", min=1)] = 24,
    calibration: Annotated[
        int, typer.Option("--calibration", help="Calibration images to generate.", min=1)
    ] = 32,
    pictures: Annotated[
        int, typer.Option("--pictures", help="Test images and photographs to draw.", min=0)
    ] = 6,
    image: Annotated[
        Path | None,
        typer.Option("--image", help="Your own picture, instead of scenes and photographs.", metavar="FILE"),
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option("--box", help="In --image, a box around an object, in pixels.", metavar="X0,Y0,X1,Y1"),
    ] = None,
    point: Annotated[
        list[str] | None,
        typer.Option("--point", help="In --image, a click on an object; each one is another.", metavar="X,Y"),
    ] = None,
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe", help="How 'small' is quantized, such as rtn-w4a4 or mse-w3a3.", metavar="NAME|FILE"
        ),
    ] = "best-closed-form-w4a4",
    max_pixels: MaxPixelsOption = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Quantize the shipped models in several ways, pack, verify, reload, measure, and draw.

    The last part is the model 'small' on photographs, in float and at 4 bits; with --image, on yours.
    """
    own = _own(image, box or [], point or [])
    from saqsam.recipe import load_recipe

    chosen = load_recipe(recipe)
    make_directory(out, "--out", force)
    started = time.perf_counter()
    rows: list[Row] = []
    drawn: list[Path] = []
    notes: list[str] = []
    shown: Shown | None = None
    with progress() as report:
        photographs = own
        if not own:
            from saqsam.cli.demo_prompts import installed_photographs
            from saqsam.cli.demo_run import run_demo

            rows, drawn = run_demo(out, images, calibration, pictures, report)
            installed = installed_photographs()
            photographs = installed[:pictures]
            notes += [NO_PHOTOGRAPHS] if pictures and not installed else []
        if photographs:
            from saqsam.cli.demo_photographs import run_photographs

            shown = run_photographs(out, photographs, chosen, calibration, report)
            drawn, notes = [*drawn, *shown.pictures], [*notes, *shown.notes]
    seconds = round(time.perf_counter() - started, 1)
    if json:
        print_json(
            {
                "rows": [row.to_dict() for row in rows],
                "photographs": [] if shown is None else [row.to_dict() for row in shown.rows],
                "pictures": [str(path) for path in drawn],
                "notes": notes,
                "seconds": seconds,
            }
        )
        return
    if rows:
        _print_rows(rows, images)
    if shown is not None:
        _print_photographs(shown)
    lines = [f"packed files: {out / 'packed'} (try: saqsam inspect FILE, saqsam verify FILE)"]
    if drawn:
        lines.append(f"pictures, float beside quantized: {out / 'pictures'}")
    print_lines([*lines, *notes, f"{seconds:.0f} s"])


def _own(image: Path | None, boxes: list[str], points: list[str]) -> list[Photograph]:
    """The user's own picture with its prompts, if there is one.

    Raises:
        UsageError: prompts without a picture, a picture without prompts, or what is not numbers.
    """
    if image is None:
        if boxes or points:
            option = "--box" if boxes else "--point"
            raise UsageError(f"{option}: belongs to your own picture; give it with --image FILE")
        return []
    from saqsam.cli.demo_prompts import own_photograph

    given = [numbers(text, 4, "--box") for text in boxes]
    clicks = [numbers(text, 2, "--point") for text in points]
    return [own_photograph(check_file(image, "--image"), given, clicks)]


def _print_rows(rows: list[Row], images: int) -> None:
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
    print_lines(
        ["mIoU is against ground truth, agreement is mIoU with the float model's masks; both from 0 to 1."]
    )


def _print_photographs(shown: Shown) -> None:
    print_table(
        f"photographs: {shown.model} at {shown.bits} by {shown.method}, {megabytes(shown.file_bytes)}, "
        "beside float",
        ["photograph", "boxes", "clicks", "agreement", "pixels that differ"],
        [
            [
                row.photograph,
                str(row.boxes),
                str(row.clicks),
                share(row.agreement),
                f"{percent(row.differs)} %",
            ]
            for row in shown.rows
        ],
    )
