"""``saqsam evaluate``: how well a model segments a COCO-format set; other tasks by ``--task``."""

from __future__ import annotations

from pathlib import Path

from saqsam.cli.answers import check_boxes_for
from saqsam.cli.arguments import (
    Model,
    check_choice_of_detections,
    check_directory,
    check_file,
    check_on_error,
    check_prompts,
)
from saqsam.cli.engine import check_engine, check_not_sharded, load_for, load_where_packed
from saqsam.cli.evaluate_options import (
    InstanceOptions,
    OrientedOptions,
    PromptOptions,
    PublishedOptions,
    SemanticOptions,
    SetOptions,
)
from saqsam.cli.evaluate_oriented import evaluate_oriented_task
from saqsam.cli.evaluate_published import PublishedRequest, evaluate_as_published
from saqsam.cli.evaluate_semantic import ZeroAndVoid, evaluate_semantic_task
from saqsam.cli.evaluate_shards import SetRequest, evaluate_in_shards
from saqsam.cli.evaluate_tasks import TaskRequest, check_task
from saqsam.cli.grouped import grouped
from saqsam.cli.many import LOCAL, distribution
from saqsam.cli.notes import print_notes
from saqsam.cli.output import print_json
from saqsam.cli.pictures import write_pictures
from saqsam.cli.progress import progress
from saqsam.cli.results import pictures_entry, print_pictures, print_results, stop_on_nan
from saqsam.datasets.bad_entries import BadEntries
from saqsam.datasets.exif_words import check_exif
from saqsam.engines.names import TORCH
from saqsam.errors import UsageError


@grouped
def evaluate(
    model: Model,
    of: SetOptions,
    asked: PromptOptions,
    instance: InstanceOptions,
    published: PublishedOptions,
    oriented: OrientedOptions,
    semantic: SemanticOptions,
) -> None:
    """Measure COCO mask AP, mIoU against ground truth, and agreement with a reference model."""
    check_exif(of.exif, "--exif")
    _check_belongs(of.task, instance, published, oriented, semantic)
    bad = check_on_error(of.on_error)
    if of.task == "instance":
        _evaluate_instances(model, of, asked, instance, published, bad)
        return
    if of.reference is not None and of.show_dir is None:
        raise UsageError(
            f"--reference belongs to --task instance; with --task {of.task} it is only drawn: "
            "add --show-dir DIR"
        )
    request = TaskRequest(
        model,
        of.images,
        of.annotations,
        of.limit,
        of.device,
        of.reference,
        of.show_dir,
        of.json,
        bad,
        of.exif,
    )
    if of.task == "semantic":
        ignored = tuple(semantic.ignore_label or ())
        zero = ZeroAndVoid(not semantic.count_zero, semantic.reduce_zero_label, ignored)
        evaluate_semantic_task(request, semantic.labels, semantic.preset, semantic.everything or (), zero)
        return
    evaluate_oriented_task(
        request,
        _checked_prompts(asked),
        top_k=asked.top_k,
        score_threshold=asked.score_threshold,
        task1_dir=oriented.task1_dir,
    )


def _check_belongs(
    task: str,
    instance: InstanceOptions,
    published: PublishedOptions,
    oriented: OrientedOptions,
    semantic: SemanticOptions,
) -> None:
    """See that every option given is one of the task."""
    check_task(
        task,
        {
            "--task1-dir": ("oriented", oriented.task1_dir is not None),
            "--labels": ("semantic", semantic.labels is not None),
            "--preset": ("semantic", semantic.preset is not None),
            "--everything": ("semantic", bool(semantic.everything)),
            "--count-zero": ("semantic", semantic.count_zero),
            "--reduce-zero-label": ("semantic", semantic.reduce_zero_label),
            "--ignore-label": ("semantic", bool(semantic.ignore_label)),
            "--as-published": ("instance", published.as_published is not None),
            "--engine": ("instance", check_engine(instance.engine) != TORCH),
            "--on": ("instance", instance.on != LOCAL),
            "--workers": ("instance", instance.workers is not None),
            "--out": ("instance", instance.out is not None),
            "--shards": ("instance", instance.shards is not None),
            "--zoom": ("instance", instance.zoom is not None),
            "--clip-to-box": ("instance", instance.clip_to_box is not None),
        },
    )


def _checked_prompts(asked: PromptOptions) -> str | Path:
    prompts = check_prompts(asked.prompts)
    check_choice_of_detections(prompts, asked.top_k, asked.score_threshold)
    return prompts


def _evaluate_instances(
    model: str,
    of: SetOptions,
    asked: PromptOptions,
    instance: InstanceOptions,
    published: PublishedOptions,
    bad: BadEntries,
) -> None:
    check_directory(of.images, "--images")
    check_file(of.annotations, "--annotations")
    prompts = _checked_prompts(asked)
    if published.as_published is not None:
        for option, value in (("--show-dir", of.show_dir), ("--out", instance.out)):
            if value is not None:
                raise UsageError(f"{option} does not go with --as-published; leave one of them out")
        evaluate_as_published(
            _published_request(model, published.as_published, of, prompts, asked, published)
        )
        return
    if published.calibration is not None or published.calibration_annotations is not None:
        raise UsageError("--calibration goes with --as-published RECIPE; add it, or leave them out")
    _measure(model, of, prompts, asked, instance, bad)


def _published_request(
    model: str,
    recipe: str,
    of: SetOptions,
    prompts: str | Path,
    asked: PromptOptions,
    published: PublishedOptions,
) -> PublishedRequest:
    return PublishedRequest(
        model=model,
        recipe=recipe,
        calibration=published.calibration,
        calibration_annotations=published.calibration_annotations,
        images=of.images,
        annotations=of.annotations,
        prompts=prompts,
        reference=of.reference,
        limit=of.limit,
        top_k=asked.top_k,
        score_threshold=asked.score_threshold,
        on_error=of.on_error,
        exif=of.exif,
        device=of.device,
        json=of.json,
    )


def _measure(
    model: str,
    of: SetOptions,
    prompts: str | Path,
    asked: PromptOptions,
    instance: InstanceOptions,
    bad: BadEntries,
) -> None:
    """Segment, count, draw and print."""
    zoom, clip_to_box, engine = instance.zoom, instance.clip_to_box, instance.engine
    check_boxes_for(zoom, clip_to_box, prompts != "points")
    chosen = distribution(instance.on, instance.workers, instance.shards, of.device)
    check_not_sharded(engine, instance.out is not None or instance.on != LOCAL)
    if instance.shards is not None and instance.out is None:
        raise UsageError("--shards needs --out DIR, where the shards are kept")

    from saqsam import api
    from saqsam.report.show import make_show_directory

    make_show_directory(of.show_dir)
    here = instance.out is None and chosen.on == LOCAL
    sam = load_for(engine, model, of.device).answering_boxes(zoom, clip_to_box)
    with progress() as report:
        judge = None
        if of.reference is not None and (of.show_dir is not None or here):
            judge = load_where_packed(engine, of.reference, of.device).answering_boxes(zoom, clip_to_box)
        if here:
            result = api.evaluate(
                sam,
                of.images,
                of.annotations,
                prompts,
                reference=judge,
                limit=of.limit,
                top_k=asked.top_k,
                score_threshold=asked.score_threshold,
                progress=report,
                on_error=bad,
                exif=of.exif,
            )
        else:
            found = SetRequest(
                of.images,
                of.annotations,
                prompts,
                of.limit,
                asked.top_k,
                asked.score_threshold,
                bad,
                zoom,
                clip_to_box,
                of.exif,
            )
            result = evaluate_in_shards(sam, model, of.reference, found, instance.out, chosen, report)
        drawn = []
        if of.show_dir is not None:
            drawn = write_pictures(
                of.show_dir,
                {sam.bits: sam} if judge is None else {f"reference, {judge.bits}": judge, sam.bits: sam},
                of.images,
                of.annotations,
                prompts,
                count=of.limit or result.images,
                top_k=asked.top_k,
                score_threshold=asked.score_threshold,
                on_error=of.on_error,
                report=report,
                exif=of.exif,
                limit=of.limit,
            )
    if of.json:
        print_json({**result.to_dict(), **pictures_entry(of.show_dir, drawn)})
    else:
        print_results([result])
        print_pictures(of.show_dir, drawn)
    print_notes(result.notes, of.json)
    stop_on_nan(result.model, result.nan_count)
