"""``saqsam serve``: a page on this machine on which one clicks on one's own photographs."""

from __future__ import annotations

import webbrowser
from typing import Annotated

import typer

from saqsam.cli.arguments import DeviceOption
from saqsam.cli.engine import EngineOption, check_engine
from saqsam.cli.output import print_lines
from saqsam.engines.names import AUTO


def serve(
    model: Annotated[
        str,
        typer.Argument(
            metavar="[MODEL]",
            help="nano, small, an official .pth, a transformers directory or hub id, a packed file, or a "
            "folder written by export --format web.",
        ),
    ] = "nano",
    compare: Annotated[
        str | None, typer.Option("--compare", help="A second model, shown beside MODEL.", metavar="MODEL")
    ] = None,
    host: Annotated[
        str,
        typer.Option("--host", help="Address to listen at; any but this machine's own wants a token."),
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(
            "--port", help="[default: 8000, or the next that is free]", min=0, max=65535, metavar="N"
        ),
    ] = None,
    open: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
    engine: EngineOption = AUTO,
    device: DeviceOption = "cpu",
    max_pixels: Annotated[
        int | None,
        typer.Option(
            "--max-pixels", help="Refuse images with more pixels.  [default: 89000000]", min=1, metavar="N"
        ),
    ] = None,
) -> None:
    """Offer a page on which MODEL segments photographs, computed here; Ctrl-C ends it."""
    check_engine(engine)
    from saqsam.serve.start import start

    models = [model, compare] if compare is not None else [model]
    serving = start(models, host=host, port=port, engine=engine, device=device, max_pixels=max_pixels)
    computed = f", computed by {' and '.join(serving.engines)}" if serving.engines else ""
    print_lines([f"{' and '.join(models)}{computed}: {serving.address}", "Ctrl-C ends it"])
    if open:
        webbrowser.open(serving.address)
    try:
        serving.server.serve_forever()
    except KeyboardInterrupt:
        print_lines(["", "ended"])
    finally:
        serving.close()
