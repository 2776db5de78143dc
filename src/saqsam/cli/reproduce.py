"""``saqsam reproduce``: repeat a row of the papers' tables, and show its figure beside the published one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from saqsam.cli.arguments import DeviceOption, JsonOption, LimitOption, SetOption
from saqsam.cli.grouped import grouped
from saqsam.cli.output import print_json, print_lines, print_table
from saqsam.cli.progress import progress
from saqsam.cli.results import percent, stop_on_nan
from saqsam.errors import SaqsamError, UsageError

if TYPE_CHECKING:
    from saqsam.reproduce.files import Finding
    from saqsam.reproduce.rows import PaperRow
    from saqsam.reproduce.run import Request
    from saqsam.tasks.instance import InstanceResult


@dataclass(frozen=True)
class WhichOptions:
    """Which rows are listed."""

    TITLE: ClassVar[str] = "Without ROW: which are listed"

    detector: Annotated[
        str | None,
        typer.Option(
            "--detector", help="List only rows with these boxes; boxes: the ground truth's.", metavar="NAME"
        ),
    ] = None
    size: Annotated[str | None, typer.Option("--size", help="List only rows of SAM b, l or h.")] = None
    method: Annotated[
        str | None,
        typer.Option("--method", help="List only rows of this recipe, or float.", metavar="NAME"),
    ] = None
    bits: Annotated[
        str | None, typer.Option("--bits", help="List only rows of these bits.", metavar="wXaY|float")
    ] = None

    def rows(self) -> list[PaperRow]:
        """Those that fit; raises as :func:`saqsam.reproduce.rows.matching`."""
        from saqsam.reproduce.rows import matching, paper_rows

        return matching(paper_rows().values(), self.detector, self.size, self.method, self.bits)


@dataclass(frozen=True)
class FilesOptions:
    """Where everything lies, and where results go."""

    TITLE: ClassVar[str] = "Files"

    coco: Annotated[
        Path,
        typer.Option("--coco", help="Folder with train2017, val2017 and annotations.", metavar="DIR"),
    ] = Path("data/coco")
    weights: Annotated[
        Path, typer.Option("--weights", help="Folder with the published weight files.", metavar="DIR")
    ] = Path("ckpt")
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help="Folder for results. Finished steps in it are used again, boxes by every row.",
            metavar="DIR",
        ),
    ] = Path("runs/papers")
    sam: Annotated[
        str | None, typer.Option("--sam", help="Another float SAM than the published one.", metavar="MODEL")
    ] = None
    detector_weights: Annotated[
        Path | None,
        typer.Option("--detector-weights", help="Another file than the published one.", metavar="FILE"),
    ] = None


@grouped
def reproduce(
    row: Annotated[
        str | None,
        typer.Argument(metavar="[ROW]", help="Such as yolox-sam-b-w4a4; without it, all are listed."),
    ] = None,
    *,
    files: FilesOptions,
    which: WhichOptions,
    check: Annotated[
        bool, typer.Option("--check", help="Only list what is needed and look whether it is there.")
    ] = False,
    limit: LimitOption = None,
    settings: SetOption = None,
    device: DeviceOption = "cpu",
    json: JsonOption = False,
) -> None:
    """Repeat ROW of the papers' tables: detect, quantize, evaluate. Downloads are listed, not made."""
    from saqsam.reproduce.files import Places, check_files
    from saqsam.reproduce.rows import find_row

    if row is None:
        _print_rows(which.rows(), json)
        return
    if which != WhichOptions():
        raise UsageError(
            f"--detector, --size, --method and --bits choose among rows; leave {row} or them out"
        )
    chosen = find_row(row)
    places = Places(files.coco, files.weights, files.sam, files.detector_weights)
    findings = check_files(chosen, places)
    bad = [one for one in findings if not one.is_good]
    if check or bad:
        _print_needs(chosen, findings, json)
    if bad:
        raise SaqsamError(
            f"{len(bad)} of {len(findings)} things that {chosen.name} needs are missing or not as published "
            f"({bad[0].path}: {bad[0].verdict}); download them as listed and run this again"
        )
    if check:
        return
    if files.out.exists() and not files.out.is_dir():
        raise UsageError(f"--out {files.out}: this is a file; name a directory")
    files.out.mkdir(parents=True, exist_ok=True)
    from saqsam.reproduce.run import Request

    _run(Request(chosen, places, files.out, limit, tuple(settings or ()), device), findings, json)


def _run(request: Request, findings: list[Finding], json: bool) -> None:
    from saqsam.reproduce.run import reproduce as repeat

    row = request.row
    with progress() as report:
        result = repeat(request, report)
    notes = [*_changed(request, findings, result), *row.notes]
    if json:
        print_json(
            {
                **_described(row),
                "measured": 100 * result.AP if result.AP >= 0 else None,
                "result": result.to_dict(),
                "notes": notes,
                "settings": [*row.settings, *request.settings],
                "out": str(request.out),
            }
        )
    else:
        print_table(
            f"{row.name}: COCO mask AP on {result.images} images of val2017, boxes from {row.detector}",
            ["model", "method", "bits", "published", "measured"],
            [[f"SAM-{row.size.upper()}", row.method, row.bits, _figure(row), percent(result.AP)]],
            right=3,
        )
        print_lines([f"published: read in {row.source}"] if row.source else [])
        print_lines([f"- {note}" for note in notes])
    stop_on_nan(result.model, result.nan_count)


def _changed(request: Request, findings: list[Finding], result: InstanceResult) -> list[str]:
    """What the user changed, which makes the two figures incomparable."""
    notes = [
        f"{one.path} was used in place of the published file, so the figures cannot be compared."
        for one in findings
        if one.verdict == "chosen by you"
    ]
    if request.settings:
        notes.append(f"The recipe was changed ({', '.join(request.settings)}).")
    if request.limit is not None:
        notes.append(f"Only {result.images} images were evaluated, so the figures cannot be compared.")
    return notes


def _print_needs(row: PaperRow, findings: list[Finding], json: bool) -> None:
    if json:
        print_json(
            {
                **_described(row),
                "needs": [
                    {"path": one.path, "source": one.source, "size": one.size, "verdict": one.verdict}
                    for one in findings
                ],
            }
        )
        return
    print_lines([f"{row.name} needs:"])
    for one in findings:
        size = (
            "" if one.size is None else f" ({one.size:,}{' images' if 'images' in one.verdict else ' bytes'})"
        )
        print_lines(
            [f"  {one.path}{size}: {one.verdict}", f"      from {one.source}" if one.source else "      -"]
        )


def _print_rows(rows: list[PaperRow], json: bool) -> None:
    if json:
        print_json({"rows": [_described(row) for row in rows]})
        return
    print_table(
        "rows of the papers' tables: COCO val2017, mask AP in percent, as published",
        ["row", "detector", "SAM", "method", "bits", "published"],
        [[row.name, row.detector, row.size.upper(), row.method, row.bits, _figure(row)] for row in rows],
        right=5,
    )


def _described(row: PaperRow) -> dict[str, Any]:
    return {
        "row": row.name,
        "detector": row.detector,
        "sam": row.size,
        "method": row.method,
        "bits": row.bits,
        "published": row.published,
        "source": row.source or None,
    }


def _figure(row: PaperRow) -> str:
    if row.published is None:
        return "not known"
    quoted = " (CAR-SAM)" if row.is_quoted else ""
    return f"{row.published:.1f}{quoted}"
