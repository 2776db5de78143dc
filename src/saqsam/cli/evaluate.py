"""``saqsam evaluate``: how well a model segments a COCO-format set; other tasks by ``--task``."""

from __future__ import annotations

from saqsam.cli.answers import check_boxes_for
from saqsam.cli.arguments import Model, check_on_error
from saqsam.cli.engine import check_engine, engine_for_shards, load_for, load_where_packed
from saqsam.cli.evaluate_options import (
    InstanceOptions,
    OrientedOptions,
    PublishedOptions,
    SemanticOptions,
    TaskOptions,
    TaskPromptOptions,
)
from saqsam.cli.evaluate_oriented import evaluate_oriented_task
from saqsam.cli.evaluate_published import PublishedRequest, evaluate_as_published
from saqsam.cli.evaluate_semantic import ZeroAndVoid, evaluate_semantic_task
from saqsam.cli.evaluate_shards import evaluate_in_shards
from saqsam.cli.evaluate_tasks import TaskRequest, check_task
from saqsam.cli.grouped import grouped
from saqsam.cli.many import LOCAL, distribution
from saqsam.cli.notes import print_notes
from saqsam.cli.output import print_json
from saqsam.cli.pictures import write_pictures
from saqsam.cli.progress import progress
from saqsam.cli.prompted_set import PromptedSet, checked_prompts, prompted_set
from saqsam.cli.results import pictures_entry, print_pictures, print_results, stop_on_nan
from saqsam.cli.set_options import SetOptions
from saqsam.datasets.exif_words import check_exif
from saqsam.engines.names import TORCH
from saqsam.errors import UsageError


@grouped
def evaluate(
    model: Model,
    what: TaskOptions,
    of: SetOptions,
    asked: TaskPromptOptions,
    instance: InstanceOptions,
    published: PublishedOptions,
    oriented: OrientedOptions,
    semantic: SemanticOptions,
) -> None:
    """Measure COCO mask AP, mIoU against ground truth, and agreement with a reference model."""
    check_exif(of.exif, "--exif")
    _check_belongs(what.task, instance, published, oriented, semantic)
    bad = check_on_error(of.on_error)
    if what.task == "instance":
        _evaluate_instances(model, what, prompted_set(of, asked), instance, published)
        return
    if what.reference is not None and what.show_dir is None:
        raise UsageError(
            f"--reference belongs to --task instance; with --task {what.task} it is only drawn: "
            "add --show-dir DIR"
        )
    request = TaskRequest(
        model,
        of.images,
        of.annotations,
        of.limit,
        what.device,
        what.reference,
        what.show_dir,
        what.json,
        bad,
        of.exif,
    )
    if what.task == "semantic":
        ignored = tuple(semantic.ignore_label or ())
        zero = ZeroAndVoid(not semantic.count_zero, semantic.reduce_zero_label, ignored)
        evaluate_semantic_task(request, semantic.labels, semantic.preset, semantic.everything or (), zero)
        return
    evaluate_oriented_task(
        request,
        checked_prompts(asked),
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


def _evaluate_instances(
    model: str,
    what: TaskOptions,
    of: PromptedSet,
    instance: InstanceOptions,
    published: PublishedOptions,
) -> None:
    if published.as_published is not None:
        for option, value in (("--show-dir", what.show_dir), ("--out", instance.out)):
            if value is not None:
                raise UsageError(f"{option} does not go with --as-published; leave one of them out")
        evaluate_as_published(
            PublishedRequest(
                model=model,
                recipe=published.as_published,
                calibration=published.calibration,
                calibration_annotations=published.calibration_annotations,
                of=of,
                reference=what.reference,
                device=what.device,
                json=what.json,
            )
        )
        return
    if published.calibration is not None or published.calibration_annotations is not None:
        raise UsageError("--calibration goes with --as-published RECIPE; add it, or leave them out")
    _measure(model, what, of, instance)


def _measure(model: str, what: TaskOptions, of: PromptedSet, instance: InstanceOptions) -> None:
    """Segment, count, draw and print."""
    zoom, clip_to_box = instance.zoom, instance.clip_to_box
    engine = engine_for_shards(instance.engine, instance.out is not None or instance.on != LOCAL)
    check_boxes_for(zoom, clip_to_box, of.prompts != "points")
    chosen = distribution(instance.on, instance.workers, instance.shards, what.device)
    if instance.shards is not None and instance.out is None:
        raise UsageError("--shards needs --out DIR, where the shards are kept")

    from saqsam.report.show import make_show_directory

    make_show_directory(what.show_dir)
    here = instance.out is None and chosen.on == LOCAL
    sam = load_for(engine, model, what.device).answering_boxes(zoom, clip_to_box)
    with progress() as report:
        judge = None
        if what.reference is not None and (what.show_dir is not None or here):
            judge = load_where_packed(engine, what.reference, what.device).answering_boxes(zoom, clip_to_box)
        if here:
            result = of.evaluate(sam, judge, report)
        else:
            result = evaluate_in_shards(
                sam,
                model,
                what.reference,
                of,
                instance.out,
                chosen,
                report,
                engine=engine,
                zoom=zoom,
                clip_to_box=clip_to_box,
            )
        drawn = []
        if what.show_dir is not None:
            models = {sam.bits: sam} if judge is None else {f"reference, {judge.bits}": judge, sam.bits: sam}
            count = of.limit or result.images
            drawn = write_pictures(what.show_dir, models, of, count=count, report=report)
    if what.json:
        print_json({**result.to_dict(), **pictures_entry(what.show_dir, drawn)})
    else:
        print_results([result])
        print_pictures(what.show_dir, drawn)
    print_notes(result.notes, what.json)
    stop_on_nan(result.model, result.nan_count)
