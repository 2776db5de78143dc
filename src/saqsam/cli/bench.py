"""``saqsam bench``: one packed model on several engines: speed, memory, size, agreement."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated

import typer

from saqsam.cli.arguments import ForceOption, JsonOption, check_output
from saqsam.cli.output import megabytes, print_json, print_table
from saqsam.cli.outputs import refuse_replacing
from saqsam.cli.packed import packed_argument
from saqsam.cli.progress import progress
from saqsam.errors import SaqsamError


def bench(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A packed model, as written by quantize.")],
    row: Annotated[
        list[str] | None,
        typer.Option(
            "--row",
            help="Only this engine; repeatable. All that can compute MODEL by default.",
            metavar="NAME",
        ),
    ] = None,
    images: Annotated[int, typer.Option("--images", help="Generated images in each process.", min=1)] = 2,
    rounds: Annotated[int, typer.Option("--rounds", help="Processes for each engine, in turns.", min=1)] = 2,
    out: Annotated[Path | None, typer.Option("--out", help="Write the rows as CSV.", metavar="FILE")] = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Run MODEL as PyTorch float, simulated, in integers, and with ONNX Runtime's own ways, in turns."""
    path = packed_argument(model, "bench")
    refuse_replacing({"model": path, "out": out})
    if out is not None:
        check_output(out, "--out", force)

    from saqsam.extras import require_onnx

    require_onnx()
    from saqsam.bench.bench import bench as run_bench

    with progress() as report:
        measured = run_bench(path, row or None, images=images, rounds=rounds, progress=report)
    rows = [one.to_dict() for one in measured]
    if out is not None:
        _write_csv(out, rows)
    if json:
        print_json({"model": model, "rows": rows})
        return
    columns = ["engine", "encoder s", "cpu s", "s/prompt", "cpu s", "peak memory", "weights", "agreement"]
    table = [
        [
            one.row,
            f"{one.encoder_seconds:.3f}",
            f"{one.encoder_cpu_seconds:.3f}",
            f"{one.decoder_seconds:.4f}",
            f"{one.decoder_cpu_seconds:.4f}",
            "–" if one.peak_bytes is None else megabytes(one.peak_bytes),
            "–" if one.model_bytes is None else megabytes(one.model_bytes),
            "–" if one.agreement is None else f"{one.agreement:.4f}",
        ]
        for one in measured
    ]
    print_table(model, columns, table)


def _write_csv(path: Path, rows: list[dict[str, object]]) -> None:
    from saqsam.files import atomic_write, stop_if_full

    try:
        with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        stop_if_full(path, error)
        raise SaqsamError(
            f"{path}: cannot be written ({error.strerror or error}); choose another name"
        ) from error
