"""``--zoom`` and ``--clip-to-box``: how box prompts are answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from saqsam.cli.engine import load_for
from saqsam.datasets.exif_words import AUTO
from saqsam.errors import UsageError

if TYPE_CHECKING:
    from saqsam.sam import Sam

ZoomOption = Annotated[
    bool | None,
    typer.Option(
        "--zoom/--no-zoom",
        help="Answer each box on a crop around it; one encoder pass for each crop. "
        "[default: what the model was made for]",
    ),
]
ClipToBoxOption = Annotated[
    bool | None,
    typer.Option(
        "--clip-to-box/--no-clip-to-box",
        help="Cut answers to boxes to their box. [default: what the model was made for]",
    ),
]


def check_boxes_for(zoom: bool | None, clip_to_box: bool | None, boxes: bool) -> None:
    """``--zoom`` and ``--clip-to-box`` need boxes.

    Raises:
        UsageError: one was given, and prompts are no boxes.
    """
    if (zoom or clip_to_box) and not boxes:
        option = "--zoom" if zoom else "--clip-to-box"
        raise UsageError(f"{option} is for box prompts, and there are none; give boxes or leave it out")


@dataclass(frozen=True)
class Answering:
    """Who answers prompts, and how.

    Attributes:
        model: as for ``api.load``.
        device: torch device.
        engine: what computes packed models.
        zoom, clip_to_box: how boxes are answered; None as the model does.
        exif: frame of the prompts on images that EXIF rotates.
    """

    model: str
    device: str
    engine: str
    zoom: bool | None
    clip_to_box: bool | None
    exif: str = AUTO

    def load(self) -> Sam:
        """The model, answering boxes as asked for; the bound method travels between processes."""
        return load_answering(self.engine, self.model, self.device, self.zoom, self.clip_to_box)


def load_answering(engine: str, model: str, device: str, zoom: bool | None, clip_to_box: bool | None) -> Sam:
    """``load_for`` of a model that answers boxes as the options say; travels between processes."""
    return load_for(engine, model, device).answering_boxes(zoom, clip_to_box)


def cost_lines(boxes: int, passes: int) -> list[str]:
    """What zooming took, for people."""
    if passes < 2:
        return []
    return [f"{boxes} boxes were answered on {passes} crops: {passes} encoder passes (--no-zoom takes 1)"]
