"""``saqsam evaluate``: how well a model segments a COCO-format set; other tasks by ``--task``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saqsam.cli.answers import ClipToBoxOption, ZoomOption, check_boxes_for
from saqsam.cli.arguments import (
    AnnotationsOption,
    DeviceOption,
    ExifOption,
    ImagesOption,
    JsonOption,
    LimitOption,
    MaxPixelsOption,
    Model,
    OnErrorOption,
    PromptsOption,
    ScoreThresholdOption,
    TopKOption,
    check_choice_of_detections,
    check_directory,
    check_file,
    check_on_error,
    check_prompts,
)
from saqsam.cli.evaluate_published import PublishedRequest, evaluate_as_published
from saqsam.cli.evaluate_shards import SetRequest, evaluate_in_shards
from saqsam.cli.evaluate_tasks import (
    TaskRequest,
    ZeroAndVoid,
    check_task,
    evaluate_oriented_task,
    evaluate_semantic_task,
)
from saqsam.cli.many import LOCAL, EngineOption, ShardsOption, WorkersOption, distribution
from saqsam.cli.notes import print_notes
from saqsam.cli.output import print_json
from saqsam.cli.pictures import write_pictures
from saqsam.cli.progress import progress
from saqsam.cli.results import pictures_entry, print_pictures, print_results, stop_on_nan
from saqsam.cli.runtime import (
    RuntimeOption,
    check_not_sharded,
    check_runtime,
    load_for,
    load_where_packed,
)
from saqsam.datasets.exif_words import AUTO, check_exif
from saqsam.engines.names import TORCH
from saqsam.errors import UsageError


def evaluate(
    model: Model,
    images: ImagesOption,
    annotations: AnnotationsOption,
    prompts: PromptsOption = "boxes",
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            help="Model whose masks agreement is measured with, and which --show-dir draws beside this one.",
            metavar="MODEL",
        ),
    ] = None,
    exif: ExifOption = AUTO,
    limit: LimitOption = None,
    top_k: TopKOption = None,
    score_threshold: ScoreThresholdOption = None,
    task: Annotated[
        str,
        typer.Option(
            "--task",
            help="instance: COCO masks. oriented: --annotations is a COCO json or a folder of DOTA labels. "
            "semantic: --annotations is a folder of label maps.",
            metavar="instance|oriented|semantic",
        ),
    ] = "instance",
    task1_dir: Annotated[
        Path | None,
        typer.Option("--task1-dir", help="oriented: folder for DOTA's Task1_<class>.txt.", metavar="DIR"),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            help="semantic: label maps to refine; noisy: made from the truth.",
            metavar="DIR|hf:DIR|noisy",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            help="semantic: settings of everything mode. paper (default): 64 x 64 clicks and crops. "
            "fast: 32 x 32 clicks, no crops.",
            metavar="paper|fast",
        ),
    ] = None,
    everything: Annotated[
        list[str] | None,
        typer.Option(
            "--everything",
            help="semantic: change one setting of everything mode; repeatable.",
            metavar="NAME=VALUE",
        ),
    ] = None,
    count_zero: Annotated[
        bool, typer.Option("--count-zero", help="semantic: label 0 is a class like others.")
    ] = False,
    reduce_zero_label: Annotated[
        bool,
        typer.Option(
            "--reduce-zero-label",
            help="semantic: --labels counts classes from 0, the truth from 1 with 0 for none.",
        ),
    ] = False,
    ignore_label: Annotated[
        list[int] | None,
        typer.Option(
            "--ignore-label",
            help="semantic: leave out pixels whose true label is N, such as 255 for void; repeatable.",
            metavar="N",
        ),
    ] = None,
    show_dir: Annotated[
        Path | None, typer.Option("--show-dir", help="Folder for a picture of each image.", metavar="DIR")
    ] = None,
    as_published: Annotated[
        str | None,
        typer.Option(
            "--as-published",
            help="Quantize MODEL by this recipe, on the grid and as its published code does, and show both.",
            metavar="RECIPE",
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option("--calibration", help="With --as-published: calibration images.", metavar="DIR"),
    ] = None,
    calibration_annotations: Annotated[
        Path | None,
        typer.Option("--calibration-annotations", help="COCO instances json of these.", metavar="FILE"),
    ] = None,
    on_error: OnErrorOption = "stop",
    device: DeviceOption = "cpu",
    runtime: RuntimeOption = TORCH,
    engine: EngineOption = LOCAL,
    workers: WorkersOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Keep finished images in shards here, and continue.", metavar="DIR"),
    ] = None,
    shards: ShardsOption = None,
    zoom: ZoomOption = None,
    clip_to_box: ClipToBoxOption = None,
    max_pixels: MaxPixelsOption = None,
    json: JsonOption = False,
) -> None:
    """Measure COCO mask AP, mIoU against ground truth, and agreement with a reference model."""
    check_exif(exif, "--exif")
    check_task(
        task,
        {
            "--task1-dir": ("oriented", task1_dir is not None),
            "--labels": ("semantic", labels is not None),
            "--preset": ("semantic", preset is not None),
            "--everything": ("semantic", bool(everything)),
            "--count-zero": ("semantic", count_zero),
            "--as-published": ("instance", as_published is not None),
            "--reduce-zero-label": ("semantic", reduce_zero_label),
            "--ignore-label": ("semantic", bool(ignore_label)),
            "--runtime": ("instance", check_runtime(runtime) != TORCH),
            "--engine": ("instance", engine != LOCAL),
            "--workers": ("instance", workers is not None),
            "--out": ("instance", out is not None),
            "--shards": ("instance", shards is not None),
            "--zoom": ("instance", zoom is not None),
            "--clip-to-box": ("instance", clip_to_box is not None),
        },
    )
    bad = check_on_error(on_error)
    if task != "instance":
        if reference is not None and show_dir is None:
            raise UsageError(
                f"--reference belongs to --task instance; with --task {task} it is only drawn: "
                "add --show-dir DIR"
            )
        request = TaskRequest(model, images, annotations, limit, device, reference, show_dir, json, bad, exif)
        if task == "semantic":
            zero = ZeroAndVoid(not count_zero, reduce_zero_label, tuple(ignore_label or ()))
            evaluate_semantic_task(request, labels, preset, everything or (), zero)
            return
        asked = check_prompts(prompts)
        check_choice_of_detections(asked, top_k, score_threshold)
        evaluate_oriented_task(
            request, asked, top_k=top_k, score_threshold=score_threshold, task1_dir=task1_dir
        )
        return
    check_directory(images, "--images")
    check_file(annotations, "--annotations")
    asked = check_prompts(prompts)
    check_choice_of_detections(asked, top_k, score_threshold)
    if as_published is not None:
        for option, value in (("--show-dir", show_dir), ("--out", out)):
            if value is not None:
                raise UsageError(f"{option} does not go with --as-published; leave one of them out")
        evaluate_as_published(
            PublishedRequest(
                model=model,
                recipe=as_published,
                calibration=calibration,
                calibration_annotations=calibration_annotations,
                images=images,
                annotations=annotations,
                prompts=asked,
                reference=reference,
                limit=limit,
                top_k=top_k,
                score_threshold=score_threshold,
                on_error=on_error,
                exif=exif,
                device=device,
                json=json,
            )
        )
        return
    if calibration is not None or calibration_annotations is not None:
        raise UsageError("--calibration goes with --as-published RECIPE; add it, or leave them out")
    check_boxes_for(zoom, clip_to_box, asked != "points")
    chosen = distribution(engine, workers, shards, device)
    check_not_sharded(runtime, out is not None or engine != LOCAL)
    if shards is not None and out is None:
        raise UsageError("--shards needs --out DIR, where the shards are kept")

    from saqsam import api
    from saqsam.report.show import make_show_directory

    make_show_directory(show_dir)
    sam = load_for(runtime, model, device).answering_boxes(zoom, clip_to_box)
    with progress() as report:
        judge = None
        if reference is not None and (show_dir is not None or (out is None and chosen.engine == LOCAL)):
            judge = load_where_packed(runtime, reference, device).answering_boxes(zoom, clip_to_box)
        if out is None and chosen.engine == LOCAL:
            result = api.evaluate(
                sam,
                images,
                annotations,
                asked,
                reference=judge,
                limit=limit,
                top_k=top_k,
                score_threshold=score_threshold,
                progress=report,
                on_error=bad,
                exif=exif,
            )
        else:
            found = SetRequest(
                images, annotations, asked, limit, top_k, score_threshold, bad, zoom, clip_to_box, exif
            )
            result = evaluate_in_shards(sam, model, reference, found, out, chosen, report)
        drawn = []
        if show_dir is not None:
            drawn = write_pictures(
                show_dir,
                {sam.bits: sam} if judge is None else {f"reference, {judge.bits}": judge, sam.bits: sam},
                images,
                annotations,
                asked,
                count=limit or result.images,
                top_k=top_k,
                score_threshold=score_threshold,
                on_error=on_error,
                report=report,
                exif=exif,
                limit=limit,
            )
    if json:
        print_json({**result.to_dict(), **pictures_entry(show_dir, drawn)})
    else:
        print_results([result])
        print_pictures(show_dir, drawn)
    print_notes(result.notes, json)
    stop_on_nan(result.model, result.nan_count)
