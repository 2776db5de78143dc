"""The verbs: load, quantize, evaluate. Each prepares its inputs and calls one stage."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from saqsam.calibrate.calibration_set import CalibrationSet, QuantizeLog, notes_on
from saqsam.calibrate.images import CalibrationImage, calibration_files, chosen_images, grid_of_points
from saqsam.checkpoints.load import at_hand, load_float
from saqsam.checkpoints.options import refuse_options, set_options, split_options
from saqsam.checkpoints.plain import as_loaded
from saqsam.datasets.bad_entries import STOP, BadEntries, policy
from saqsam.datasets.coco import read_instances
from saqsam.datasets.exif_words import AUTO, check_exif
from saqsam.datasets.framed import framed
from saqsam.drop_in.directory import packed_file
from saqsam.dry_run import DryRun
from saqsam.dry_run import dry_run as tried_on_one
from saqsam.errors import UsageError
from saqsam.families.record import Model
from saqsam.files import expanded
from saqsam.jobs.directory import open_run
from saqsam.jobs.identity import identity_of
from saqsam.mixed.choose import allocate_bits
from saqsam.models.device import check_device
from saqsam.pack.convert import from_packed
from saqsam.pack.file import is_packed, read_packed
from saqsam.pipeline import Progress, quantize_model
from saqsam.prompts.from_dataset import BOXES, POINTS, prompts_for
from saqsam.prompts.plausible import implausible
from saqsam.recipe import Recipe, load_recipe
from saqsam.reconstruct.progress import Listener, nobody
from saqsam.sam import Sam
from saqsam.segment.zoom import answering_records, own_answering
from saqsam.tasks.instance import InstanceResult, evaluate_instances
from saqsam.torch_state import as_documented

Images = str | Path | Iterable[str | Path]
"""A folder of pictures, or their files."""


@as_documented
def load(source: str | Path, device: str = "cpu", engine: str = "torch") -> Sam:
    """Load a float or a packed SAM.

    Args:
        source: ``nano``, ``small``, or either with ``-outliers`` (shipped), an official ``.pth``, a
            ``transformers`` directory, a hub id, a ``.safetensors`` file of weights, a packed file written by
            ``Sam.save``, or a directory written by ``Sam.save_pretrained``, also as a hub id. Behind a float
            model's name may stand options of loading: ``medsam_vit_b.pth#preprocessing=medsam`` squashes
            pictures and scales their values as MedSAM does, ``sam_hq_vit_b.pth#hq_token_only`` answers with
            SAM-HQ's own mask alone. They are kept in what is quantized from it.
        device: where the model goes, such as ``cpu`` or ``cuda``.
        engine: ``torch`` simulates integers; for packed files, ``onnxruntime`` computes with them on the CPU,
            ``native`` does so by saqsam's own kernels, ``int8`` in the linear layers of a PyTorch model, on
            any device, and ``compiled`` compiles its encoder besides. ``auto`` is the fastest one here that
            can, see :func:`saqsam.engines.choice.fastest_engine`; ``Sam.engine`` says which that is.

    Raises:
        CheckpointError: the file is damaged, foreign or unsafe; the message says what to do.
        UsageError: ``source`` is no path and no name.
    """
    check_device(device)
    given = source
    named, options = split_options(source)
    source = at_hand(named)
    path = packed_file(source) or expanded(source)
    if engine == "auto" and not is_packed(path):
        engine = "torch"
    if engine != "torch":
        refuse_options(options, str(given))
        from saqsam.engines.load import load_engine

        return load_engine(path if path.is_file() else source, engine, device)
    if not is_packed(path):
        model = load_float(source, device=device, attention="sdpa")
        set_options(model, options, str(given))
        own = own_answering(source, {})
        return Sam(model, str(given), zoom=own.zoom, clip_to_box=own.clip_to_box)
    refuse_options(options, str(given))
    packed = read_packed(path)
    model, recipe = from_packed(packed, path)
    own = own_answering(source, packed.records)
    sam = Sam(model, str(given), recipe, packed.records, path, zoom=own.zoom, clip_to_box=own.clip_to_box)
    return sam.to(device)


@as_documented
def quantize(
    sam: Sam | Model,
    recipe: Recipe | str | Path,
    images: Images,
    annotations: str | Path | None = None,
    prompts: str | Path | None = None,
    progress: Progress = lambda stage, done, total: None,
    run_dir: str | Path | None = None,
    cache_gb: float | None = None,
    listener: Listener = nobody,
    on_error: str | BadEntries = STOP,
    exif: str = AUTO,
) -> Sam:
    """Quantize a float SAM without labels; the float model is left as it was.

    Args:
        sam: a float model from ``load``, or a plain ``transformers.SamModel`` (or one of another family).
        recipe: a ``Recipe``, a name such as ``"saq-sam-star-w4a4"``, or a YAML file.
        images: folder of calibration images, searched with the folders in it and without hidden files; or the
            paths of the files. In all paths ``~`` is the home directory.
        annotations: COCO instances file; its boxes or clicks serve as prompts. Masks are not used.
        prompts: ``"boxes"`` (default), ``"points"``, or a COCO-results file of detections; needs
            ``annotations``. Without annotations, a 4 x 4 grid of clicks is used on every image.
        progress: called with a stage's name, steps done and steps in total.
        run_dir: directory that keeps every finished part; the same call continues an interrupted one there.
        cache_gb: GB of activations that learning holds in memory; what is beyond goes to files in ``run_dir``
            (or a temporary directory) that vanish again. Changes no result. ``None``: all in memory.
        listener: called after each learning step with the unit's name, its steps so far, the terms of the
            loss by name, and the seconds left for all of learning; see ``reconstruct.progress.Listener``.
        on_error: ``"stop"`` refuses annotations or detections with a bad entry, ``"skip"`` leaves out such
            entries, and images that are missing or cannot be read. Hand in a ``BadEntries("skip")`` to read
            from its ``left_out`` afterwards which they were.
        exif: whether annotations count pixels of images as ``"stored"`` or as ``"displayed"`` after EXIF
            rotation; ``"auto"`` decides by the whole set, see :func:`saqsam.datasets.exif.decide`. Without
            annotations images are taken as displayed.

    Returns:
        A new ``Sam`` that has passed its audit. Everything random comes from ``recipe.calibration.seed``. Its
        ``log`` has the pictures used, notes on them (said by the logger ``saqsam`` too), seconds by stage.

    Raises:
        UsageError: the model is already quantized, or no SAM, or there are no usable images.
        AnnotationError: annotations or detections break their own rules.
        UnknownFrame: an image is rotated or mirrored by EXIF, and the set does not tell its frame.
        InvariantError: the audit failed, naming the site; nothing is returned.
        RunLocked: another process works in ``run_dir``. RunMismatch: it was begun for something else.
        OutOfMemory, OutOfDisk: memory or the disk is too small; what is finished in ``run_dir`` is kept.
    """
    if cache_gb is not None and not cache_gb >= 0:
        raise UsageError(f"cache_gb {cache_gb}: give GB of memory, 0 or more")
    sam, chosen, found = _prepared(sam, recipe, images, annotations, prompts, on_error, exif)
    chosen = allocate_bits(sam.model, chosen, found.images, progress)
    model = copy.deepcopy(sam.model)
    if run_dir is None:
        report = quantize_model(model, chosen, found.images, progress, None, cache_gb, listener)
    else:
        place = expanded(run_dir)
        with open_run(place, identity_of(model, chosen, found.images)) as directory:
            report = quantize_model(model, chosen, found.images, progress, directory, cache_gb, listener)
    log = QuantizeLog(found, report.seconds)
    records = {**report.to_dict(), **answering_records(sam.answering())}
    packed = Sam(model, f"{sam.name} {chosen.name}", chosen, records, log=log)
    return packed.answering_boxes(sam.zoom, sam.clip_to_box)


def calibration_images(
    recipe: Recipe,
    images: Images,
    annotations: str | Path | None = None,
    prompts: str | Path | None = None,
    on_error: str | BadEntries = STOP,
    exif: str = AUTO,
) -> list[CalibrationImage]:
    """The images and prompts a recipe calibrates on, drawn with its seed; see ``quantize``."""
    return list(calibration_set(recipe, images, annotations, prompts, on_error, exif).images)


@as_documented
def dry_run(
    sam: Sam | Model,
    recipe: Recipe | str | Path,
    images: Images,
    annotations: str | Path | None = None,
    prompts: str | Path | None = None,
    progress: Progress = lambda stage, done, total: None,
    on_error: str | BadEntries = STOP,
    exif: str = AUTO,
) -> DryRun:
    """What ``quantize`` with the same arguments would take, tried on one picture; nothing is kept.

    Returns:
        Sites, passes, learning steps, rough seconds by stage, bytes of memory and disk.

    Raises:
        UsageError: as ``quantize``. OutOfMemory: a learning step on one image does not fit.
    """
    sam, chosen, found = _prepared(sam, recipe, images, annotations, prompts, on_error, exif)
    return tried_on_one(sam.model, chosen, found.images, progress)


def _prepared(
    sam: Sam | Model, recipe: Recipe | str | Path, images: Images, *where: Any
) -> tuple[Sam, Recipe, CalibrationSet]:
    """What ``quantize`` begins with; ``where``: as ``calibration_set`` goes on after ``images``."""
    sam = float_sam(sam)
    chosen = load_recipe(str(recipe)) if isinstance(recipe, str | Path) else recipe
    if not isinstance(chosen, Recipe):
        raise UsageError(
            f"recipe: expected a Recipe, the name of one or a YAML file, got {type(chosen).__name__}"
        )
    found = calibration_set(chosen, images, *where)
    found.log()
    return sam, chosen, found


@as_documented
def calibration_set(
    recipe: Recipe,
    images: Images,
    annotations: str | Path | None = None,
    prompts: str | Path | None = None,
    on_error: str | BadEntries = STOP,
    exif: str = AUTO,
) -> CalibrationSet:
    """What a recipe calibrates on, of how many pictures, with notes on them; see ``quantize``.

    Raises:
        UsageError: there are no usable images. ImageError: one of those drawn cannot be read.
    """
    generator = torch.Generator().manual_seed(recipe.calibration.seed)
    settings = recipe.calibration
    if annotations is None:
        if prompts is not None:
            raise UsageError("prompts from boxes, points or detections need annotations; give them too")
        if check_exif(exif) != AUTO:
            raise UsageError(
                f"exif {exif}: is about the frame of annotations, and there are none; leave it out"
            )
        paths = calibration_files(images)
        where = str(images) if isinstance(images, str | Path) else "the list of files"
        chosen = grid_of_points(paths, settings, generator, policy(on_error))
        return CalibrationSet(chosen, len(paths), where, settings.images, notes_on(chosen))
    if not isinstance(images, str | Path):
        raise UsageError("with annotations, images must be the directory that their file names refer to")
    bad, kind = policy(on_error), "boxes" if prompts is None else _expanded(prompts)
    listed = read_instances(
        expanded(annotations),
        expanded(images),
        annotated=kind in (BOXES, POINTS),
        masks=kind == POINTS,
        categories=False,
        bad=bad,
    )
    dataset = framed(listed, exif)
    by_image = prompts_for(dataset, kind, any_category=True, bad=bad)
    chosen = chosen_images(
        [(image, by_image[image.id].prompts) for image in dataset.images if image.id in by_image],
        settings,
        generator,
        bad,
    )
    noted = bad.notes_beside((*dataset.notes, *implausible(dataset, by_image, kind)))
    notes = [*noted, *notes_on(chosen)]
    if len(by_image) < len(dataset):
        notes.append(f"{len(dataset) - len(by_image)} of {len(dataset)} pictures have no prompt: passed over")
    where = f"{images}, listed in {annotations}"
    return CalibrationSet(chosen, len(dataset), where, settings.images, tuple(notes))


def _expanded(prompts: str | Path) -> str | Path:
    return prompts if prompts in (BOXES, POINTS) else expanded(prompts)


def float_sam(sam: object) -> Sam:
    """A float model to quantize, with its public face.

    Args:
        sam: a ``Sam``, or a ``transformers.SamModel``, which is copied: in float32, in eval mode, with the
            decoder's layer norms as published, as ``load`` gives it.

    Raises:
        UsageError: it is quantized already, or no SAM.
    """
    from transformers import PreTrainedModel

    if isinstance(sam, PreTrainedModel):
        if any(one.is_meta for one in sam.parameters()):
            raise UsageError("sam: its weights are on the meta device and hold no values; load them first")
        sam = Sam(as_loaded(sam), sam.config.name_or_path or type(sam).__name__)
    if not isinstance(sam, Sam):
        raise UsageError(
            f"sam: expected a model from saqsam.load or a transformers.SamModel, got {type(sam).__name__}; "
            "load it first, such as saqsam.load('nano')"
        )
    if sam.quantization is not None:
        raise UsageError(f"{sam.name} is already quantized ({sam.bits}); start from the float model")
    return sam


@as_documented
def evaluate(
    sam: Sam,
    images: str | Path,
    annotations: str | Path,
    prompts: str | Path = "boxes",
    reference: Sam | None = None,
    limit: int | None = None,
    top_k: int | None = None,
    score_threshold: float | None = None,
    progress: Progress = lambda stage, done, total: None,
    on_error: str | BadEntries = STOP,
    exif: str = AUTO,
) -> InstanceResult:
    """Instance segmentation of a COCO-format set, by the protocol of the papers.

    Args:
        sam: model to evaluate.
        images: directory of the images.
        annotations: COCO instances file.
        prompts: ``"boxes"`` or ``"points"`` from the annotations, or a COCO-results file of detections.
        reference: model whose masks on the same prompts are compared with ``sam``'s (``agreement``).
        limit: use only the first ``limit`` images of the file.
        top_k: of detections, keep at most this many of each image, best first.
        score_threshold: drop detections with a lower score.
        progress: called with a stage's name, steps done and steps in total.
        on_error: ``"stop"`` refuses annotations or detections with a bad entry and ends at an image that
            cannot be read; ``"skip"`` leaves them out and lists them in the result's ``left_out``.
        exif: whether annotations count pixels of images as ``"stored"`` or as ``"displayed"`` after EXIF
            rotation; ``"auto"`` decides by the whole set, see :func:`saqsam.datasets.exif.decide`.

    Returns:
        COCO mask AP, mIoU against ground truth, agreement, and counts; see ``InstanceResult``. Its ``notes``
        say what was decided, and what looks implausible.

    Raises:
        UnknownFrame: an image is rotated or mirrored by EXIF, and the set does not tell its frame.
        AnnotationError: annotations or detections break their own rules.
    """
    bad = policy(on_error)
    dataset = framed(read_instances(Path(annotations), Path(images), limit=limit, bad=bad), exif)
    found = prompts_for(dataset, prompts, top_k=top_k, score_threshold=score_threshold, bad=bad)
    return evaluate_instances(
        sam,
        dataset,
        found,
        str(prompts),
        reference=reference,
        progress=lambda done, total: progress("evaluate", done, total),
        bad=bad,
    )
