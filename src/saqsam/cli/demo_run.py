"""What the demo does: every method on the calibration scenes, every figure on the test scenes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from saqsam import api
from saqsam.cli.pictures import write_pictures
from saqsam.cli.progress import Report, within
from saqsam.cli.prompted_set import PromptedSet
from saqsam.errors import InvariantError
from saqsam.pack.verify import verify_file
from saqsam.recipe import Recipe, load_recipe
from saqsam.sam import Sam
from saqsam.scenes import write_scenes

TEST_SEED, CALIBRATION_SEED = 770_001, 770_002
"""Seeds of scenes that no shipped model was trained on."""

RUNS = (
    ("nano", "rtn-w4a4"),
    ("nano", "mse-w4a4"),
    ("nano", "saq-sam-star-w4a4"),
    ("nano", "saq-sam-star-w8a8"),
    ("nano-outliers", "mse-w4a4"),
    ("nano-outliers", "saq-sam-star-w4a4"),
)
"""Which recipe is tried on which model; the outlier variant is where clipping matters."""

DRAWN = "saq-sam-star-w4a4"


@dataclass(frozen=True)
class Row:
    """One line of the demo's table.

    Attributes:
        model: ``nano`` or ``nano-outliers``.
        method: the recipe, or ``float``.
        bits: ``float`` or for example ``w4a4``.
        AP: COCO mask AP, 0 to 1.
        mIoU: mean IoU with ground truth, 0 to 1; None if the scenes hold no object.
        agreement: mean IoU with the float model's masks, 0 to 1; None for the float model itself.
        file_bytes: size of the packed file, or of the float32 parameters.
    """

    model: str
    method: str
    bits: str
    AP: float
    mIoU: float | None
    agreement: float | None
    file_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Scenes:
    """A generated set: folder of images and their annotations."""

    images: Path
    annotations: Path


def run_demo(
    out: Path, images: int, calibration: int, pictures: int, report: Report
) -> tuple[list[Row], list[Path]]:
    """Run everything below ``out``; returns the table's rows and the pictures drawn.

    Args:
        out: existing directory; gets ``scenes/``, ``packed/`` and ``pictures/``.
        images: test images to generate.
        calibration: calibration images to generate.
        pictures: test images to draw.
        report: progress, see ``saqsam.cli.progress``.

    Raises:
        InvariantError: a packed file failed its audit.
    """
    test = scenes(out / "scenes" / "test", images, TEST_SEED)
    calibrate = scenes(out / "scenes" / "calibration", calibration, CALIBRATION_SEED)
    (out / "packed").mkdir(exist_ok=True)
    rows: list[Row] = []
    drawn: list[Path] = []
    for name in dict.fromkeys(model for model, _ in RUNS):
        sam = api.load(name)
        rows.append(_float_row(name, sam, test, within(report, name)))
        for recipe in [recipe for model, recipe in RUNS if model == name]:
            stage = within(report, f"{name} {recipe}")
            path = out / "packed" / f"{name}-{recipe}.safetensors"
            packed = packed_model(sam, load_recipe(recipe), calibrate, path, stage)
            rows.append(_packed_row(name, recipe, packed, sam, test, stage))
            if recipe == DRAWN and pictures:
                drawn += _pictures(out / "pictures" / name, sam, packed, test, pictures)
    return rows, drawn


def scenes(directory: Path, count: int, seed: int) -> Scenes:
    """Write generated scenes."""
    return Scenes(directory / "images", write_scenes(directory, count, seed))


def packed_model(sam: Sam, recipe: Recipe, calibrate: Scenes, path: Path, report: Report) -> Sam:
    """Quantize, pack, verify, and load back: what is measured is what the file holds."""
    quantized = api.quantize(sam, recipe, calibrate.images, calibrate.annotations, progress=report)
    quantized.save(path)
    verdict = verify_file(path)
    if not verdict.ok:
        first = verdict.failures[0]
        raise InvariantError(f"{path}: {first.site}", f"'{first.name}' does not hold: {first.detail}")
    return api.load(path)


def _float_row(name: str, sam: Sam, test: Scenes, report: Report) -> Row:
    result = api.evaluate(sam, test.images, test.annotations, "boxes", progress=report)
    size = int(sam.inspect()["float_bytes"])
    return Row(name, "float", "float", result.AP, result.mIoU, None, size)


def _packed_row(name: str, recipe: str, packed: Sam, sam: Sam, test: Scenes, report: Report) -> Row:
    result = api.evaluate(packed, test.images, test.annotations, "boxes", reference=sam, progress=report)
    size = int(packed.inspect()["file_bytes"])
    method = load_recipe(recipe).name
    return Row(name, method, packed.bits, result.AP, result.mIoU, result.agreement, size)


def _pictures(directory: Path, sam: Sam, packed: Sam, test: Scenes, count: int) -> list[Path]:
    directory.mkdir(parents=True, exist_ok=True)
    models = {"float": sam, f"packed {packed.bits}": packed}
    return write_pictures(directory, models, PromptedSet(test.images, test.annotations), count=count)
