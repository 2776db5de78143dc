"""``saqsam evaluate --as-published``: what the published code would report, beside what is on the grid."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from saqsam.cli.arguments import check_directory, check_file
from saqsam.cli.notes import print_notes
from saqsam.cli.output import print_json, print_lines
from saqsam.cli.progress import progress, within
from saqsam.cli.prompted_set import PromptedSet
from saqsam.cli.results import print_results, stop_on_nan
from saqsam.datasets.exif_words import AUTO
from saqsam.errors import UsageError
from saqsam.recipe import load_recipe


@dataclass(frozen=True)
class PublishedRequest:
    """What is compared, on which set; fields as the options of ``evaluate``.

    Attributes:
        model: float, or packed and made with the recipe; then ``reference`` is the float model.
        recipe: a name or a file.
        calibration: folder of calibration images; not the set that is evaluated on.
        calibration_annotations: their COCO file; without it a grid of clicks is asked.
        of: the set that all are evaluated on.
    """

    model: str
    recipe: str
    calibration: Path | None
    calibration_annotations: Path | None
    of: PromptedSet
    reference: str | None
    device: str
    json: bool


def evaluate_as_published(request: PublishedRequest) -> None:
    """Quantize by the recipe in both ways, evaluate both, and print one table.

    The model as published quantizes half of its activations by coins at every pass; they are drawn from the
    recipe's seed, so that the figure can be repeated.

    Raises:
        UsageError: calibration images are missing, or no float model is given.
    """
    recipe = load_recipe(request.recipe)
    if request.calibration is None:
        raise UsageError(
            "--as-published quantizes here: give --calibration DIR, pictures other than those of --images"
        )
    check_directory(request.calibration, "--calibration")
    if request.calibration_annotations is not None:
        check_file(request.calibration_annotations, "--calibration-annotations")

    from saqsam import api
    from saqsam.published.learning import as_published
    from saqsam.published.off_grid import quantize_as_published

    as_published(recipe)  # says at once if there is no published form
    given = api.load(request.model, device=request.device)
    if given.quantization is None:
        float_sam, honest = given, None
    elif request.reference is None:
        raise UsageError(f"{request.model} is quantized: give its float model as --reference, or as MODEL")
    else:
        float_sam, honest = api.load(request.reference, device=request.device), given
        if given.quantization.name != recipe.name:
            raise UsageError(
                f"{request.model} was made with {given.quantization.name}, not {recipe.name}; "
                f"give --as-published {given.quantization.name}"
            )
    data = (request.calibration, request.calibration_annotations)
    exif = AUTO if request.calibration_annotations is None else request.of.exif
    quantize = partial(api.quantize, on_error=request.of.on_error, exif=exif)
    loosely = partial(quantize_as_published, on_error=request.of.on_error, exif=exif)
    with progress() as report:
        if honest is None:
            honest = quantize(float_sam, recipe, *data, progress=within(report, "on the grid"))
        loose = loosely(float_sam, recipe, *data, progress=within(report, "as published"))
        loose.coins.manual_seed(recipe.calibration.seed)
        results = [
            request.of.evaluate(sam, None if sam is float_sam else float_sam, within(report, name))
            for name, sam in (("float", float_sam), ("on the grid", honest), ("as published", loose))
        ]
    shares = loose.records["off_grid"]
    if request.json:
        names = ("float", "on_grid", "as_published")
        rows = {name: result.to_dict() for name, result in zip(names, results, strict=True)}
        print_json({"recipe": recipe.name, **rows, "off_grid": shares})
    else:
        print_results(results, ["float", f"{recipe.name}, on the grid", f"{recipe.name}, as published"])
        print_lines(
            [
                f"as published, {100 * shares['weights']:.1f} % of weights and "
                f"{100 * shares['activations']:.1f} % of activations are not quantized: no integers hold "
                "this model, and its figure is for comparison alone"
            ]
        )
    print_notes([note for result in results for note in result.notes], request.json)
    for one in results:
        stop_on_nan(one.model, one.nan_count)
