"""The options of ``saqsam evaluate``, by what they are about."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from saqsam.cli.answers import ClipToBoxOption, ZoomOption
from saqsam.cli.arguments import DeviceOption, JsonOption
from saqsam.cli.engine import EngineOption
from saqsam.cli.many import LOCAL, OnOption, ShardsOption, WorkersOption
from saqsam.cli.set_options import PromptOptions
from saqsam.engines.names import TORCH


@dataclass(frozen=True)
class TaskOptions:
    """What is measured."""

    TITLE: ClassVar[str] = "Every task"

    task: Annotated[
        str,
        typer.Option(
            "--task",
            help="instance: COCO masks. oriented: --annotations is a COCO json or a folder of DOTA labels. "
            "semantic: --annotations is a folder of label maps.",
            metavar="instance|oriented|semantic",
        ),
    ] = "instance"
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            help="Model whose masks agreement is measured with, and which --show-dir draws beside this one.",
            metavar="MODEL",
        ),
    ] = None
    show_dir: Annotated[
        Path | None, typer.Option("--show-dir", help="Folder for a picture of each image.", metavar="DIR")
    ] = None
    device: DeviceOption = "cpu"
    json: JsonOption = False


@dataclass(frozen=True)
class TaskPromptOptions(PromptOptions):
    """What is asked, where the task asks."""

    TITLE: ClassVar[str] = "Instance and oriented: prompts"


@dataclass(frozen=True)
class InstanceOptions:
    """How answers are computed, and where finished images are kept."""

    TITLE: ClassVar[str] = "Instance"

    zoom: ZoomOption = None
    clip_to_box: ClipToBoxOption = None
    engine: EngineOption = TORCH
    on: OnOption = LOCAL
    workers: WorkersOption = None
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Keep finished images in shards here, and continue.", metavar="DIR"),
    ] = None
    shards: ShardsOption = None


@dataclass(frozen=True)
class PublishedOptions:
    """Beside the honest figure, that of the published code."""

    TITLE: ClassVar[str] = "Instance: beside the published code"

    as_published: Annotated[
        str | None,
        typer.Option(
            "--as-published",
            help="Quantize MODEL by this recipe, on the grid and as its published code does, and show both.",
            metavar="RECIPE",
        ),
    ] = None
    calibration: Annotated[
        Path | None,
        typer.Option("--calibration", help="With --as-published: calibration images.", metavar="DIR"),
    ] = None
    calibration_annotations: Annotated[
        Path | None,
        typer.Option("--calibration-annotations", help="COCO instances json of these.", metavar="FILE"),
    ] = None


@dataclass(frozen=True)
class OrientedOptions:
    """What only oriented boxes have."""

    TITLE: ClassVar[str] = "Oriented"

    task1_dir: Annotated[
        Path | None, typer.Option("--task1-dir", help="Folder for DOTA's Task1_<class>.txt.", metavar="DIR")
    ] = None


@dataclass(frozen=True)
class SemanticOptions:
    """What only label maps have."""

    TITLE: ClassVar[str] = "Semantic"

    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            help="Label maps to refine; noisy: made from the truth.",
            metavar="DIR|hf:DIR|noisy",
        ),
    ] = None
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            help="Settings of everything mode. paper (default): 64 x 64 clicks and crops. "
            "fast: 32 x 32 clicks, no crops.",
            metavar="paper|fast",
        ),
    ] = None
    everything: Annotated[
        list[str] | None,
        typer.Option(
            "--everything", help="Change one setting of everything mode; repeatable.", metavar="NAME=VALUE"
        ),
    ] = None
    count_zero: Annotated[bool, typer.Option("--count-zero", help="Label 0 is a class like others.")] = False
    reduce_zero_label: Annotated[
        bool,
        typer.Option(
            "--reduce-zero-label", help="--labels counts classes from 0, the truth from 1 with 0 for none."
        ),
    ] = False
    ignore_label: Annotated[
        list[int] | None,
        typer.Option(
            "--ignore-label",
            help="Leave out pixels whose true label is N, such as 255 for void; repeatable.",
            metavar="N",
        ),
    ] = None
