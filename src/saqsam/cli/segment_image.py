"""``saqsam segment`` on one image: masks as pictures, a table or JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saqsam.cli.answers import check_boxes_for, cost_lines, load_answering
from saqsam.cli.arguments import check_file, check_outputs
from saqsam.cli.output import print_json, print_lines, print_table
from saqsam.datasets.exif_words import AUTO, STORED
from saqsam.errors import NumericalError, UsageError

if TYPE_CHECKING:
    from saqsam.images.files import LoadedImage
    from saqsam.segment.result import Segmentation

PICTURE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
LOGITS = ".npy"


@dataclass(frozen=True)
class ImageRequest:
    """What is asked about one image, as the command line has it.

    Attributes:
        model, image, device, engine: as the options of these names.
        prompts: ``boxes``, ``points`` and ``labels`` as far as given, arguments of ``Sam.segment``.
        masks: files of mask prompts.
        multimask_output, all_masks, zoom, clip_to_box: as of ``Sam.segment``.
        exif: frame of the prompts.
    """

    model: str
    image: Path
    prompts: dict[str, Any]
    masks: tuple[Path, ...]
    multimask_output: bool
    all_masks: bool
    zoom: bool | None
    clip_to_box: bool | None
    device: str
    engine: str
    exif: str = AUTO


def segment_image(
    request: ImageRequest, out: Path | None, overlay: Path | None, *, force: bool, json: bool
) -> None:
    """Segment one image, write what was asked for, print.

    Raises:
        UsageError: an output that cannot be written, or options that contradict each other.
        NumericalError: a mask was not finite; nothing is written.
    """
    check_file(request.image, "IMAGE")
    check_boxes_for(request.zoom, request.clip_to_box, "boxes" in request.prompts)
    if out is not None and out.suffix.lower() not in (".png", LOGITS):
        raise UsageError(f"--out {out}: masks are written as .png, their logits as {LOGITS}")
    if overlay is not None and overlay.suffix.lower() not in PICTURE_FORMATS:
        raise UsageError(f"--overlay {overlay}: pictures are written as {', '.join(PICTURE_FORMATS)}")
    if not (request.all_masks or request.masks):  # else the model and the files say how many there are
        objects = len(request.prompts.get("boxes", request.prompts.get("points", ())))
        check_outputs([*((path, "--out") for path in _paths(out, objects, 1)), (overlay, "--overlay")], force)

    from saqsam.images.files import open_image

    loaded = open_image(request.image, apply_exif=request.exif != STORED)
    found, objects = _answers(request, loaded)
    paths = _paths(out, objects, len(found) // objects)
    check_outputs([*((path, "--out") for path in paths), (overlay, "--overlay")], force)
    if found.nan_count:
        raise NumericalError(
            "mask_decoder",
            f"{found.nan_count} masks are not finite numbers; run 'saqsam verify' on the model",
        )
    _write(found, loaded, out, paths, overlay)
    _print(request, found, loaded, paths, overlay, json)


def _answers(request: ImageRequest, loaded: LoadedImage) -> tuple[Segmentation, int]:
    """The model's answers, and how many objects were asked for."""
    sam = load_answering(request.engine, request.model, request.device, request.zoom, request.clip_to_box)
    given = dict(request.prompts)
    if request.masks:
        from saqsam.families.framing import frame_for
        from saqsam.prompts.mask_files import read_masks
        from saqsam.segment.predictor import low_res_side

        if request.zoom:
            raise UsageError("--zoom: masks lie in the frame of the whole image; leave out --zoom or --mask")
        frame = frame_for(sam.model, *loaded.pixels.shape[:2])
        given["masks"] = read_masks(request.masks, frame, low_res_side(sam.model))
    found = sam.segment(
        loaded.pixels, **given, multimask_output=request.multimask_output, all_masks=request.all_masks
    )
    return found, len(next(iter(given.values())))


def _paths(out: Path | None, objects: int, each: int) -> list[Path]:
    """One path for each mask: ``mask.png``; ``mask-1.png`` ... for several; ``mask-1-1.png`` ... for all."""
    if out is None:
        return []
    if objects * each == 1 or out.suffix.lower() == LOGITS:
        return [out]
    numbers = [
        "-".join(str(number) for number, count in ((one + 1, objects), (mask + 1, each)) if count > 1)
        for one in range(objects)
        for mask in range(each)
    ]
    return [out.with_stem(f"{out.stem}-{number}") for number in numbers]


def _write(
    found: Segmentation, loaded: LoadedImage, out: Path | None, paths: list[Path], overlay: Path | None
) -> None:
    import numpy as np
    from PIL import Image

    from saqsam.files import atomic_write

    if out is not None and out.suffix.lower() == LOGITS:
        with atomic_write(out) as temporary, temporary.open("wb") as file:
            np.save(file, found.low_res_logits[:, 0].numpy())
    else:
        for path, mask in zip(paths, found.masks, strict=bool(paths)):
            with atomic_write(path) as temporary:
                Image.fromarray(mask.astype("uint8") * 255).save(temporary, format="PNG")
    if overlay is not None:
        with atomic_write(overlay) as temporary:
            found.draw(loaded.pixels).save(temporary, format=PICTURE_FORMATS[overlay.suffix.lower()])


def _print(
    request: ImageRequest,
    found: Segmentation,
    loaded: LoadedImage,
    paths: list[Path],
    overlay: Path | None,
    json: bool,
) -> None:
    areas = [int(mask.sum()) for mask in found.masks]
    files = [str(path) for path in paths]
    shared: list[str | None] = [files[0] if files else None]
    named = files if len(files) == len(areas) else shared * len(areas)
    if json:
        print_json(
            {
                "model": request.model,
                "image": str(request.image),
                "masks": [
                    {"iou_score": float(score), **likely, "area": area, "file": file}
                    for score, likely, area, file in zip(
                        found.iou_scores, _likely(found), areas, named, strict=True
                    )
                ],
                "overlay": str(overlay) if overlay else None,
                "clipped_boxes": found.clipped_boxes,
                "encoder_passes": found.encoder_passes,
                "notes": list(loaded.notes),
            }
        )
        return
    objects = [[f"{one:.3f}" for one in likely.values()] for likely in _likely(found)]
    rows = [
        [str(index + 1), str(area), f"{score:.3f}", *objects[index], named[index] or "–"]
        for index, (score, area) in enumerate(zip(found.iou_scores, areas, strict=True))
    ]
    more = [] if found.object_scores is None else ["object"]
    print_table(str(request.image), ["mask", "pixels", "predicted IoU", *more, "file"], rows)
    if found.clipped_boxes:
        print_lines([f"{found.clipped_boxes} boxes reached past the image and were clipped"])
    print_lines([*cost_lines(len(request.prompts.get("boxes", ())), found.encoder_passes), *loaded.notes])


def _likely(found: Segmentation) -> list[dict[str, float]]:
    """For each mask how likely there is an object, from models that say so; else nothing."""
    if found.object_scores is None:
        return [{} for _ in found.masks]
    return [{"object_score": float(one)} for one in found.object_scores]
