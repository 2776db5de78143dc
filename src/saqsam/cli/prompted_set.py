"""Images, annotations and prompts as the command line names them: one set, which several models answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from saqsam.cli.arguments import (
    check_choice_of_detections,
    check_directory,
    check_file,
    check_on_error,
    check_prompts,
)
from saqsam.datasets.exif_words import AUTO, check_exif

if TYPE_CHECKING:
    from saqsam.cli.progress import Report
    from saqsam.cli.set_options import PromptOptions, SetOptions
    from saqsam.datasets.bad_entries import BadEntries
    from saqsam.datasets.instances import InstanceSet
    from saqsam.prompts.from_dataset import ImagePrompts
    from saqsam.sam import Sam
    from saqsam.tasks.instance import InstanceResult


@dataclass(frozen=True)
class PromptedSet:
    """A set and its prompts; fields as the arguments of ``api.evaluate``."""

    images: Path
    annotations: Path
    prompts: str | Path = "boxes"
    limit: int | None = None
    top_k: int | None = None
    score_threshold: float | None = None
    exif: str = AUTO
    on_error: str = "stop"

    def read(self, bad: BadEntries) -> tuple[InstanceSet, Mapping[int, ImagePrompts]]:
        """The images with what is on them, and the prompts by image id.

        Raises:
            AnnotationError: annotations or detections break their own rules.
            UnknownFrame: an image is rotated by EXIF, and the set does not tell its frame.
        """
        from saqsam.datasets.coco import read_instances
        from saqsam.datasets.framed import framed
        from saqsam.prompts.from_dataset import prompts_for

        dataset = framed(read_instances(self.annotations, self.images, limit=self.limit, bad=bad), self.exif)
        top_k, threshold = self.top_k, self.score_threshold
        return dataset, prompts_for(dataset, self.prompts, top_k=top_k, score_threshold=threshold, bad=bad)

    def evaluate(self, sam: Sam, reference: Sam | None, report: Report) -> InstanceResult:
        """What a model makes of it; raises as ``api.evaluate``."""
        from saqsam import api

        return api.evaluate(
            sam,
            self.images,
            self.annotations,
            self.prompts,
            reference=reference,
            limit=self.limit,
            top_k=self.top_k,
            score_threshold=self.score_threshold,
            progress=report,
            on_error=self.on_error,
            exif=self.exif,
        )


def checked_prompts(asked: PromptOptions) -> str | Path:
    """``boxes``, ``points`` or the path of detections, among which the options may choose.

    Raises:
        UsageError: no such file, or there is nothing to choose among.
    """
    prompts = check_prompts(asked.prompts)
    check_choice_of_detections(prompts, asked.top_k, asked.score_threshold)
    return prompts


def prompted_set(of: SetOptions, asked: PromptOptions) -> PromptedSet:
    """The set that the options name.

    Raises:
        UsageError: a path leads to nothing of its kind, or a word is none of those known.
    """
    check_exif(of.exif, "--exif")
    check_directory(of.images, "--images")
    check_file(of.annotations, "--annotations")
    prompts = checked_prompts(asked)
    check_on_error(of.on_error)
    return PromptedSet(
        of.images,
        of.annotations,
        prompts,
        of.limit,
        asked.top_k,
        asked.score_threshold,
        of.exif,
        of.on_error,
    )
