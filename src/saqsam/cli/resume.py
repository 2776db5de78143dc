"""``saqsam resume``: take up an interrupted ``saqsam quantize --run DIR``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from saqsam.cli.arguments import ForceOption, JsonOption, check_directory, check_output
from saqsam.cli.finished import finished_file, say_finished
from saqsam.cli.outputs import refuse_replacing
from saqsam.cli.quantize import Command, carry_out
from saqsam.cli.quantize_options import CacheOption
from saqsam.errors import RunError


def resume(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory given to --run.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Write here instead of the file named at first.", metavar="FILE"),
    ] = None,
    cache_gb: CacheOption = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Continue an interrupted run; finished parts are taken as they are, a finished run is left alone."""
    from saqsam.jobs.directory import COMMAND, read_json

    check_directory(run, "RUN")
    found = read_json(run / COMMAND)
    try:
        command = Command(**found)
    except TypeError as error:
        hint = "begin one with 'saqsam quantize ... --run DIR'"
        raise RunError(f"{run}: no run was begun here from the command line; {hint}") from error
    if out is not None:
        command = replace(command, out=str(out))
    if cache_gb is not None:
        command = replace(command, cache_gb=cache_gb)
    if not force and finished_file(run, Path(command.out)):
        say_finished(run, Path(command.out), json)
        return
    refuse_replacing({"model": command.model, "out": command.out})
    check_output(Path(command.out), "--out", force)
    carry_out(command, run, json=json)
