"""``saqsam segment``: masks for one image from boxes and clicks, or for a folder from detections."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saqsam.cli.arguments import (
    DeviceOption,
    ExifOption,
    ForceOption,
    JsonOption,
    Model,
    ScoreThresholdOption,
    TopKOption,
    check_choice_of_detections,
    check_file,
    check_outputs,
    numbers,
)
from saqsam.cli.many import LOCAL, EngineOption, ShardsOption, WorkersOption, distribution
from saqsam.cli.output import print_json, print_lines, print_table
from saqsam.cli.runtime import RuntimeOption, check_runtime, load_for
from saqsam.errors import NumericalError, UsageError
from saqsam.runtime.names import TORCH
from saqsam.tasks.exif_words import AUTO, STORED, check_exif

if TYPE_CHECKING:
    from saqsam.segmentation import Segmentation

PICTURE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def segment(
    model: Model,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="An image, or a folder of images.")],
    box: Annotated[
        list[str] | None,
        typer.Option("--box", help="A box in pixels; each one is an object.", metavar="X0,Y0,X1,Y1"),
    ] = None,
    point: Annotated[
        list[str] | None,
        typer.Option("--point", help="A click on the object; all clicks mean one object.", metavar="X,Y"),
    ] = None,
    not_point: Annotated[
        list[str] | None,
        typer.Option("--not-point", help="A click beside the object.", metavar="X,Y"),
    ] = None,
    detections: Annotated[
        Path | None,
        typer.Option("--detections", help="For a folder: COCO-results json of boxes.", metavar="FILE"),
    ] = None,
    annotations: Annotated[
        Path | None,
        typer.Option(
            "--annotations",
            help="For a folder: COCO json that gives images their ids. Without it, names that are numbers "
            "are the ids, others are counted from 1, as in 'saqsam detect'.",
            metavar="FILE",
        ),
    ] = None,
    top_k: TopKOption = None,
    score_threshold: ScoreThresholdOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Mask image, 0 and 255; for a folder, COCO results json, or a directory that keeps finished "
            "images in shards and continues.",
            metavar="FILE|DIR",
        ),
    ] = None,
    overlay: Annotated[
        Path | None,
        typer.Option("--overlay", help="Picture of the masks over the image.", metavar="FILE"),
    ] = None,
    exif: ExifOption = AUTO,
    device: DeviceOption = "cpu",
    runtime: RuntimeOption = TORCH,
    engine: EngineOption = LOCAL,
    workers: WorkersOption = None,
    shards: ShardsOption = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Segment IMAGE; coordinates are its pixels as displayed. Several boxes give out-1.png, out-2.png."""
    check_runtime(runtime)
    check_exif(exif, "--exif")
    if not image.exists():
        raise UsageError(f"IMAGE {image}: there is no such file or directory")
    if image.is_dir():
        if box or point or not_point or overlay:
            raise UsageError(
                "a folder is segmented with --detections FILE, not with boxes, points or --overlay"
            )
        if detections is None or out is None:
            raise UsageError(
                "a folder needs --detections FILE (boxes to segment) and --out FILE (the results)"
            )
        from saqsam.cli.segment_folder import segment_folder

        check_choice_of_detections(detections, top_k, score_threshold)
        segment_folder(
            model,
            image,
            detections,
            annotations,
            out,
            top_k=top_k,
            score_threshold=score_threshold,
            device=device,
            runtime=runtime,
            distribution=distribution(engine, workers, shards, device),
            force=force,
            exif=exif,
            json=json,
        )
        return
    for value, option in (
        (detections, "--detections"),
        (annotations, "--annotations"),
        (top_k, "--top-k"),
        (score_threshold, "--score-threshold"),
        (None if engine == LOCAL else engine, "--engine"),
        (workers, "--workers"),
        (shards, "--shards"),
    ):
        if value is not None:
            raise UsageError(f"{option} is for a folder of images; one image takes --box and --point")
    prompts = _prompts(box, point, not_point)
    _segment_image(model, image, prompts, out, overlay, device, runtime, exif, force, json)


def _prompts(box: list[str] | None, point: list[str] | None, not_point: list[str] | None) -> dict[str, Any]:
    """Options as arguments of ``Sam.segment``: boxes (P, 4), points (1, K, 2), labels (1, K)."""
    boxes = [numbers(text, 4, "--box") for text in box or ()]
    on = [numbers(text, 2, "--point") for text in point or ()]
    beside = [numbers(text, 2, "--not-point") for text in not_point or ()]
    if not boxes and not on:
        raise UsageError("nothing to segment: give at least one --box X0,Y0,X1,Y1 or --point X,Y")
    if (on or beside) and len(boxes) > 1:
        raise UsageError("clicks refine one object, so they go with one --box at most")
    prompts: dict[str, Any] = {}
    if boxes:
        prompts["boxes"] = boxes
    if on or beside:
        prompts["points"] = [[*on, *beside]]
        prompts["labels"] = [[1] * len(on) + [0] * len(beside)]
    return prompts


def _segment_image(
    model: str,
    image: Path,
    prompts: dict[str, Any],
    out: Path | None,
    overlay: Path | None,
    device: str,
    runtime: str,
    exif: str,
    force: bool,
    json: bool,
) -> None:
    check_file(image, "IMAGE")
    masks = _mask_paths(out, len(prompts.get("boxes", [0])))
    if overlay is not None and overlay.suffix.lower() not in PICTURE_FORMATS:
        raise UsageError(f"--overlay {overlay}: pictures are written as {', '.join(PICTURE_FORMATS)}")
    check_outputs([*((path, "--out") for path in masks), (overlay, "--overlay")], force)

    from saqsam.images import open_image

    loaded = open_image(image, apply_exif=exif != STORED)
    result = load_for(runtime, model, device).segment(loaded.pixels, **prompts)
    if result.nan_count:
        raise NumericalError("mask_decoder", f"{result.nan_count} masks are not finite numbers")
    _write(result, loaded.pixels, masks, overlay)
    areas = [int(mask.sum()) for mask in result.masks]
    files: list[str | None] = [str(path) for path in masks] or [None] * len(areas)
    if json:
        print_json(
            {
                "model": model,
                "image": str(image),
                "masks": [
                    {"iou_score": float(score), "area": area, "file": path}
                    for score, area, path in zip(result.iou_scores, areas, files, strict=True)
                ],
                "overlay": str(overlay) if overlay else None,
                "clipped_boxes": result.clipped_boxes,
                "notes": list(loaded.notes),
            }
        )
        return
    rows = [
        [str(index + 1), str(area), f"{score:.3f}", str(masks[index]) if masks else "–"]
        for index, (score, area) in enumerate(zip(result.iou_scores, areas, strict=True))
    ]
    print_table(str(image), ["mask", "pixels", "predicted IoU", "file"], rows)
    if result.clipped_boxes:
        print_lines([f"{result.clipped_boxes} boxes reached past the image and were clipped"])
    print_lines(list(loaded.notes))


def _mask_paths(out: Path | None, count: int) -> list[Path]:
    """One path for each mask: ``mask.png``, or ``mask-1.png``, ``mask-2.png`` ... for several."""
    if out is None:
        return []
    if out.suffix.lower() != ".png":
        raise UsageError(f"--out {out}: masks are written as .png")
    if count == 1:
        return [out]
    return [out.with_stem(f"{out.stem}-{index + 1}") for index in range(count)]


def _write(result: Segmentation, pixels: Any, masks: list[Path], overlay: Path | None) -> None:
    from PIL import Image

    from saqsam.files import atomic_write

    for path, mask in zip(masks, result.masks, strict=bool(masks)):
        with atomic_write(path) as temporary:
            Image.fromarray(mask.astype("uint8") * 255).save(temporary, format="PNG")
    if overlay is not None:
        with atomic_write(overlay) as temporary:
            result.draw(pixels).save(temporary, format=PICTURE_FORMATS[overlay.suffix.lower()])
