"""The ``saqsam`` command: its verbs, and the one place where exceptions become messages and exit codes."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, cast

import typer

from saqsam import __version__
from saqsam.cli import (
    bench,
    compare,
    demo,
    detect,
    evaluate,
    everything,
    export,
    inspect,
    quantize,
    recipe,
    reproduce,
    resume,
    segment,
    serve,
    verify,
)
from saqsam.cli.details import details
from saqsam.cli.renamed import with_present_names
from saqsam.cli.sections import SectionedCommand
from saqsam.errors import SaqsamError, UsageError
from saqsam.files import NO_ROOM
from saqsam.visible import visible

app = typer.Typer(
    name="saqsam",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Quantize the Segment Anything Model to 2 to 8 bits, pack it, audit it, and measure it.",
    epilog="Exit codes: 0 done, 1 an error you can mend, 2 usage, 3 a bad input file, 4 a broken promise.",
)
app.command("demo")(demo.demo)
app.command("quantize", cls=SectionedCommand)(quantize.quantize)
app.command("resume")(resume.resume)
app.command("inspect")(inspect.inspect)
app.command("verify")(verify.verify)
app.command("segment")(segment.segment)
app.command("everything", cls=SectionedCommand)(everything.everything)
app.command("detect", cls=SectionedCommand)(detect.detect)
app.command("evaluate", cls=SectionedCommand)(evaluate.evaluate)
app.command("reproduce", cls=SectionedCommand)(reproduce.reproduce)
app.command("compare", cls=SectionedCommand)(compare.compare)
app.command("export")(export.export)
app.command("serve")(serve.serve)
app.command("bench")(bench.bench)
app.add_typer(recipe.app, name="recipe")

# typer's errors share click's root, which old releases import and new ones carry along privately.
_ParserError = typer.BadParameter.__mro__[2]


@dataclass
class _Options:
    """What the options before the verb asked for."""

    debug: bool = False


@app.callback(invoke_without_command=True)
def _before_the_verb(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the full traceback of an error.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say on stderr what was chosen, and why.")
    ] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Quantize the Segment Anything Model to 2 to 8 bits, pack it, audit it, and measure it."""
    if isinstance(context.obj, _Options):
        context.obj.debug = debug
    if verbose:
        context.with_resource(details())
    if version:
        from saqsam.native.library import describe

        typer.echo(f"saqsam {__version__}")
        typer.echo(f"native kernels: {describe()}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; every error is one line on stderr.

    Args:
        arguments: words after ``saqsam``; None takes them from ``sys.argv``.
    """
    options = _Options()
    given = sys.argv[1:] if arguments is None else arguments
    words, notes = with_present_names([_at_home(word) for word in given])
    for note in notes:
        typer.echo(f"note: {note}", err=True)
    try:
        _refuse_deleted_folder()
        _refuse_empty(words)
        code = app(words, prog_name="saqsam", standalone_mode=False, obj=options)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Exception as error:  # noqa: BLE001 - the boundary: nothing may escape as a traceback
        if options.debug:
            traceback.print_exception(error)
        code, message = _explain(error, options.debug, words)
        typer.echo(message, err=True)
    if code == 130:
        typer.echo("saqsam: interrupted", err=True)
    return code if isinstance(code, int) else 0


def _explain(error: Exception, debug: bool, words: Sequence[str]) -> tuple[int, str]:
    """An exception as (exit code, one line)."""
    if isinstance(error, SaqsamError):
        return error.exit_code, f"saqsam: {_one_line(str(error))}"
    if isinstance(error, _ParserError):
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else _command_in(words)
        message = _one_line(cast(typer.BadParameter, error).format_message())
        return 2, f"saqsam: {message} (see '{command} --help')"
    if isinstance(error, OSError) and error.strerror:
        name = f"{_one_line(str(error.filename))}: " if error.filename else ""
        if error.errno in NO_ROOM:
            return 3, f"saqsam: {name}no space left ({error.strerror}); make room, then run it again"
        return 1, f"saqsam: {name}{error.strerror}; check the path and who may read and write there"
    where = "" if debug else "; run with 'saqsam --debug ...' to see where"
    return 1, f"saqsam: unexpected {type(error).__name__}: {_one_line(str(error))[:300]}{where}"


def _refuse_deleted_folder() -> None:
    """Refuse to start where the current folder is gone, since no path can be found from there.

    Raises:
        UsageError: it was deleted.
    """
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise UsageError("the current folder was deleted; give this from a folder that exists") from error


def _refuse_empty(words: Sequence[str]) -> None:
    """Refuse what a variable of the shell that is not set leaves: as a path it would be the folder one is in.

    Raises:
        UsageError: a word is empty, or an option's value is.
    """
    for place, word in enumerate(words):
        before = words[place - 1] if place else "saqsam"
        if not word.strip() or (word.startswith("--") and word.find("=") == len(word) - 1 > 2):
            after = word.rstrip("=") if word.strip() else before
            raise UsageError(
                f"there is nothing after {after}: is a variable of the shell not set? give its value"
            )


def _at_home(word: str) -> str:
    """A word with ``~`` as the home directory, where the shell leaves it as it is: ``--out=~/x``."""
    option, equals, value = word.rpartition("=")
    if value.startswith("~/") and (not equals or option.startswith("--")):
        return option + equals + os.path.expanduser(value)
    return word


def _command_in(words: Sequence[str]) -> str:
    """The command that a command line calls: some of the parser's errors do not say whose help would help."""
    path, command = ["saqsam"], typer.main.get_command(app)
    for word in words:
        below = getattr(command, "commands", {})
        if word in below:
            path.append(word)
            command = below[word]
    return " ".join(path)


def _one_line(text: str) -> str:
    return " ".join(visible(text, keep="\n\r\t").split())
