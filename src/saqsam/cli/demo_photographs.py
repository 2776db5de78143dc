"""The demo's photographs: ``small`` in float beside ``small`` quantized, in figures and in pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from saqsam import api
from saqsam.cli.demo_prompts import Photograph
from saqsam.cli.demo_run import CALIBRATION_SEED, packed_model, scenes
from saqsam.cli.progress import Report, within
from saqsam.images.difference import overlaps
from saqsam.images.draw import draw_masks, side_by_side, stacked
from saqsam.images.files import LoadedImage, Pixels, open_image
from saqsam.recipe import Recipe
from saqsam.report.compared_picture import Drawn, compared_picture, fitted
from saqsam.report.show import save_picture
from saqsam.sam import Sam

MODEL = "small"
CALIBRATION = 16
"""Scenes that are enough here: with 32 it takes twice as long."""
OVERVIEW = "photographs"
_HIGH, _IN_A_ROW = 384, 3
"""Pixels of the overview's panels, and how many stand in one of its rows."""


@dataclass(frozen=True)
class PhotographRow:
    """What quantization changes on one photograph.

    Attributes:
        photograph: its name.
        boxes: objects asked for by a box.
        clicks: objects asked for by a click.
        agreement: mean IoU of the objects' masks with the float model's, 0 to 1.
        differs: share of the picture's pixels that only one of the two gives to an object, 0 to 1.
        picture: the picture that shows it.
    """

    photograph: str
    boxes: int
    clicks: int
    agreement: float
    differs: float
    picture: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Shown:
    """What was made of the photographs.

    Attributes:
        model, method, bits: which model, by which recipe, at which bits.
        file_bytes: size of the packed file.
        rows: one for each photograph.
        pictures: one for each, and of several photographs a last one that shows them all.
        notes: what was changed on the way from the files, one short sentence each.
    """

    model: str
    method: str
    bits: str
    file_bytes: int
    rows: list[PhotographRow]
    pictures: list[Path]
    notes: list[str]


def run_photographs(
    out: Path, photographs: Sequence[Photograph], recipe: Recipe, calibration: int, report: Report
) -> Shown:
    """Answer, quantize on generated scenes, answer again, draw.

    Args:
        out: existing directory; gets ``scenes/calibration``, ``packed/`` and ``pictures/small``.
        photographs: at least one.
        recipe: of the quantized model.
        calibration: scenes to generate.
        report: progress, see ``saqsam.cli.progress``.

    Raises:
        ImageError: a picture cannot be read. PromptError: a prompt lies outside of its picture.
        InvariantError: the packed file failed its audit.
    """
    stage = within(report, MODEL)
    sam = api.load(MODEL)
    images = [_opened(one) for one in photographs]
    in_float = _answers(sam, f"{MODEL}, float", images, photographs, stage)
    packed = _packed(sam, out, recipe, calibration, within(report, f"{MODEL} {recipe.name}"))
    in_few_bits = _answers(packed, f"{MODEL}, {packed.bits}", images, photographs, stage)
    directory = out / "pictures" / MODEL
    directory.mkdir(parents=True, exist_ok=True)
    rows: list[PhotographRow] = []
    taken: set[str] = set()
    for one, image, first, second in zip(photographs, images, in_float, in_few_bits, strict=True):
        picture = compared_picture(image.pixels, [first, second], close_up=False)
        path = save_picture(directory, one.name, picture, taken)
        rows.append(_row(one, first, second, path))
    drawn = [Path(row.picture) for row in rows]
    if len(rows) > 1:
        sheet = _overview(rows, [image.pixels for image in images], in_float, in_few_bits)
        drawn.append(save_picture(directory.parent, OVERVIEW, sheet))
    notes = [
        f"{one.name}: {note}" for one, image in zip(photographs, images, strict=True) for note in image.notes
    ]
    size = int(packed.inspect()["file_bytes"])
    return Shown(MODEL, recipe.name, packed.bits, size, rows, drawn, notes)


def _opened(photograph: Photograph) -> LoadedImage:
    with photograph.path() as path:
        return open_image(path)


def _packed(sam: Sam, out: Path, recipe: Recipe, calibration: int, report: Report) -> Sam:
    """Quantized on generated scenes, of which the recipe takes no more than suffice here."""
    enough = min(recipe.calibration.images, CALIBRATION)
    used = replace(recipe, calibration=replace(recipe.calibration, images=enough))
    calibrate = scenes(out / "scenes" / "calibration", calibration, CALIBRATION_SEED)
    (out / "packed").mkdir(exist_ok=True)
    path = out / "packed" / f"{MODEL}-{recipe.name}-{recipe.bits.replace(' ', '-')}.safetensors"
    return packed_model(sam, used, calibrate, path, report)


def _answers(
    sam: Sam, title: str, images: Sequence[LoadedImage], photographs: Sequence[Photograph], report: Report
) -> list[Drawn]:
    found = []
    for done, (image, one) in enumerate(zip(images, photographs, strict=True)):
        report(f"photographs, {sam.bits}", done, len(photographs))
        found.append(_answer(sam, title, image.pixels, one))
    report(f"photographs, {sam.bits}", len(photographs), len(photographs))
    return found


def _answer(sam: Sam, title: str, pixels: Pixels, one: Photograph) -> Drawn:
    """Masks of all objects of a photograph; those with a box are asked together, and so are those without."""
    count = len(one.objects)
    masks, scores = np.zeros((count, *pixels.shape[:2]), bool), np.zeros(count)
    boxes, clicks = np.full((count, 4), np.nan), np.full((count, 1, 2), np.nan)
    boxed = [index for index, asked in enumerate(one.objects) if asked.box is not None]
    clicked = [index for index, asked in enumerate(one.objects) if asked.box is None]
    if boxed:
        boxes[boxed] = [one.objects[index].box for index in boxed]
        found = sam.segment(pixels, boxes=boxes[boxed])
        masks[boxed], scores[boxed] = found.masks, found.iou_scores
    if clicked:
        clicks[clicked, 0] = [one.objects[index].click for index in clicked]
        found = sam.segment(pixels, points=clicks[clicked])
        masks[clicked], scores[clicked] = found.masks, found.iou_scores
    labels = [f"{asked.name} {score:.2f}".strip() for asked, score in zip(one.objects, scores, strict=True)]
    return Drawn(title, masks, boxes, clicks, labels)


def _row(one: Photograph, first: Drawn, second: Drawn, picture: Path) -> PhotographRow:
    boxes = sum(asked.box is not None for asked in one.objects)
    return PhotographRow(
        photograph=one.name,
        boxes=boxes,
        clicks=len(one.objects) - boxes,
        agreement=float(overlaps(first.masks, second.masks).mean()),
        differs=float(np.any(first.masks ^ second.masks, axis=0).mean()),
        picture=str(picture),
    )


def _overview(
    rows: Sequence[PhotographRow],
    images: Sequence[Pixels],
    in_float: Sequence[Drawn],
    in_few_bits: Sequence[Drawn],
) -> Image.Image:
    """All photographs, a few in a row: float, and quantized below."""
    panels: list[list[Image.Image]] = []
    for pixels, first, second in zip(images, in_float, in_few_bits, strict=True):
        high, wide = pixels.shape[:2]
        shown, drawn, _ = fitted(pixels, [first, second], longest=_HIGH * max(high, wide) // high)
        panels.append([draw_masks(shown, one.masks, boxes=one.boxes, points=one.points) for one in drawn])
    sheets: list[Image.Image] = []
    for start in range(0, len(rows), _IN_A_ROW):
        some = slice(start, start + _IN_A_ROW)
        floats = [
            f"{row.photograph}: {one.title}" for row, one in zip(rows[some], in_float[some], strict=True)
        ]
        bits = [
            f"{one.title}: {100 * row.differs:.1f} % of pixels differ"
            for row, one in zip(rows[some], in_few_bits[some], strict=True)
        ]
        sheets.append(side_by_side([first for first, _ in panels[some]], floats))
        sheets.append(side_by_side([second for _, second in panels[some]], bits))
    return stacked(sheets)
