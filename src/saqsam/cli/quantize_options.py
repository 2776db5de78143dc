"""The options of ``saqsam quantize``, by what they are about."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from saqsam.cli.arguments import (
    BitsOption,
    ExifOption,
    ForceOption,
    ImagesOption,
    MaxPixelsOption,
    OnErrorOption,
    OnlyOption,
    SetOption,
    check_directory,
    check_file,
    check_on_error,
    check_output,
    check_prompts,
)
from saqsam.cli.finished import check_unfinished
from saqsam.datasets.exif_words import AUTO, check_exif
from saqsam.errors import UsageError
from saqsam.recipe import Recipe, load_recipe
from saqsam.recipe.fast import fast
from saqsam.recipe.only import only

CacheOption = Annotated[
    float | None,
    typer.Option(
        "--cache-gb",
        help="Memory for activations while learning; what is beyond goes to files in --run DIR or a "
        "temporary directory, and vanishes again. Changes no result [all in memory].",
        metavar="GB",
        min=0.0,
    ),
]


@dataclass(frozen=True)
class CalibrationOptions:
    """What the model is calibrated on."""

    TITLE: ClassVar[str] = "Calibration images"

    images: ImagesOption
    annotations: Annotated[
        Path | None, typer.Option("--annotations", help="COCO instances json.", metavar="FILE")
    ] = None
    prompts: Annotated[
        str | None,
        typer.Option(
            "--prompts",
            help="boxes or points (from --annotations), or a COCO-results detections json.",
            metavar="boxes|points|FILE",
        ),
    ] = None
    on_error: OnErrorOption = "stop"
    exif: ExifOption = AUTO
    max_pixels: MaxPixelsOption = None

    def checked_prompts(self) -> str | Path | None:
        """What is asked on the images; None for a grid of clicks.

        Raises:
            UsageError: a path leads to nothing of its kind, or an option lacks the one it needs.
        """
        check_directory(self.images, "--images")
        if self.annotations is not None:
            check_file(self.annotations, "--annotations")
        usual = "boxes" if self.annotations else None
        asked = usual if self.prompts is None else check_prompts(self.prompts)
        if asked is not None and self.annotations is None:
            raise UsageError(
                f"--prompts {self.prompts}: needs --annotations FILE, which says what each image holds"
            )
        check_on_error(self.on_error)
        if check_exif(self.exif, "--exif") != AUTO and self.annotations is None:
            raise UsageError(
                f"--exif {self.exif}: needs --annotations FILE; without it images are taken as displayed"
            )
        return asked


@dataclass(frozen=True)
class RecipeOptions:
    """How it is quantized."""

    TITLE: ClassVar[str] = "Recipe"

    recipe: Annotated[
        str, typer.Option("--recipe", help="A shipped recipe, name-wXaY, or a YAML file.", metavar="NAME")
    ] = "saq-sam-star"
    bits: BitsOption = None
    settings: SetOption = None
    hurry: Annotated[
        bool, typer.Option("--fast", help="A fifth of the recipe's learning steps, for a first look.")
    ] = False
    half: OnlyOption = None

    def chosen(self) -> Recipe:
        """The recipe with its changes.

        Raises:
            RecipeError: there is none of this name, or a change makes no sense.
        """
        recipe = load_recipe(self.recipe, bits=self.bits, settings=self.settings or ())
        if self.hurry:
            recipe = fast(recipe)
        return recipe if self.half is None else only(recipe, self.half)


@dataclass(frozen=True)
class WrittenOptions:
    """What is written, and what a run keeps on its way."""

    TITLE: ClassVar[str] = "Packed file and run"

    out: Annotated[
        Path | None,
        typer.Option("--out", help="File to write, *.safetensors; not with --dry-run.", metavar="FILE"),
    ] = None
    run: Annotated[
        Path | None,
        typer.Option(
            "--run",
            help="Directory that keeps each finished part; 'saqsam resume' continues an interrupted run.",
            metavar="DIR",
        ),
    ] = None
    cache_gb: CacheOption = None
    dry: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only say what it takes: sites, passes, time, memory, disk; tries one picture.",
        ),
    ] = False
    force: ForceOption = False

    def checked_out(self) -> Path:
        """The packed file to write.

        Raises:
            UsageError: it is not named, or cannot be written.
        """
        if self.out is None:
            raise UsageError("option '--out' is missing: name the packed file to write, or give --dry-run")
        if self.out.suffix != ".safetensors":
            raise UsageError(f"--out {self.out}: a packed file's name ends in .safetensors")
        if self.run is not None and self.run.exists() and not self.run.is_dir():
            raise UsageError(f"--run {self.run}: this is a file; name a directory")
        if self.run is not None and not self.force:
            check_unfinished(self.run, self.out)
        return check_output(self.out, "--out", self.force)
