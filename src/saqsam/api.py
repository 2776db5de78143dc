"""The verbs: load, quantize, evaluate. Each prepares its inputs and calls one stage."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from saqsam.calibration import CalibrationImage, chosen_images, grid_of_points
from saqsam.drop_in.directory import packed_file
from saqsam.errors import UsageError
from saqsam.jobs.directory import open_run
from saqsam.jobs.identity import identity_of
from saqsam.mixed.choose import spend_bits
from saqsam.models.load import at_hand, load_float
from saqsam.pack.convert import from_packed
from saqsam.pack.file import is_packed, read_packed
from saqsam.pipeline import Progress, quantize_model
from saqsam.prompts.from_dataset import prompts_for
from saqsam.recipe import Recipe, load_recipe
from saqsam.reconstruct.telling import Listener, nobody
from saqsam.sam import Sam
from saqsam.tasks.coco_json import read_instances
from saqsam.tasks.exif_words import AUTO, check_exif
from saqsam.tasks.framed import framed
from saqsam.tasks.instance import InstanceResult, evaluate_instances
from saqsam.tasks.plausible import implausible


def load(source: str | Path, device: str = "cpu", engine: str = "torch") -> Sam:
    """Load a float or a packed SAM.

    Args:
        source: ``nano`` or ``nano-outliers`` (shipped), an official ``.pth``, a ``transformers`` directory,
            a hub id, a ``.safetensors`` file of weights, a packed file written by ``Sam.save``, or a
            directory written by ``Sam.save_pretrained``, also as a hub id.
        device: where the model goes, such as ``cpu`` or ``cuda``.
        engine: ``torch`` simulates integers; for packed files, ``onnxruntime`` computes with them on the CPU,
            ``int8`` in the linear layers of a PyTorch model, on any device, and ``compiled`` compiles its
            encoder besides.

    Raises:
        CheckpointError: the file is damaged, foreign or unsafe; the message says what to do.
    """
    given, source = source, at_hand(source)
    path = packed_file(source) or Path(source).expanduser()
    if engine != "torch":
        from saqsam.runtime.engine import load_engine

        return load_engine(path if path.is_file() else source, engine, device)
    if not is_packed(path):
        return Sam(load_float(source, device=device, attention="sdpa"), str(given))
    packed = read_packed(path)
    model, recipe = from_packed(packed, path)
    return Sam(model, str(given), recipe, packed.records, path).to(device)


def quantize(
    sam: Sam,
    recipe: Recipe | str,
    images: str | Path | Sequence[Path],
    annotations: str | Path | None = None,
    prompts: str | Path | None = None,
    progress: Progress = lambda stage, done, total: None,
    run_dir: str | Path | None = None,
    cache_gb: float | None = None,
    listener: Listener = nobody,
    exif: str = AUTO,
    note: Callable[[str], None] = lambda sentence: None,
) -> Sam:
    """Quantize a float SAM without labels; the float model is left as it was.

    Args:
        sam: a float model from ``load``.
        recipe: a ``Recipe``, or a name such as ``"saq-sam-star-w4a4"``.
        images: directory of calibration images, or the files.
        annotations: COCO instances file; its boxes or clicks serve as prompts. Masks are not used.
        prompts: ``"boxes"`` (default), ``"points"``, or a COCO-results file of detections; needs
            ``annotations``. Without annotations, a 4 x 4 grid of clicks is used on every image.
        progress: called with a stage's name, steps done and steps in total.
        run_dir: directory that keeps every finished part; the same call continues an interrupted one there.
        cache_gb: GB of activations that learning holds in memory; what is beyond goes to files in ``run_dir``
            (or a temporary directory) that vanish again. Changes no result. ``None``: all in memory.
        listener: called after each learning step with the unit's name, its steps so far, the terms of the
            loss by name, and the seconds left for all of learning; see ``reconstruct.telling.Listener``.
        exif: whether annotations count pixels of images as ``"stored"`` or as ``"displayed"`` after EXIF
            rotation; ``"auto"`` decides by the whole set, see :func:`saqsam.tasks.exif.decide`. Without
            annotations images are taken as displayed.
        note: called with each sentence the user should read, such as what was decided about rotated images,
            or that boxes look implausible.

    Returns:
        A new ``Sam`` that has passed its audit. Everything random comes from ``recipe.calibration.seed``.

    Raises:
        UsageError: the model is already quantized, or there are no usable images.
        UnknownFrame: an image is rotated or mirrored by EXIF, and the set does not tell its frame.
        InvariantError: the audit failed, naming the site; nothing is returned.
        RunLocked: another process works in ``run_dir``. RunMismatch: it was begun for something else.
        OutOfMemory, OutOfDisk: memory or the disk is too small; what is finished in ``run_dir`` is kept.
    """
    if sam.quantization is not None:
        raise UsageError(f"{sam.name} is already quantized ({sam.bits}); start from the float model")
    if cache_gb is not None and not cache_gb >= 0:
        raise UsageError(f"cache_gb {cache_gb}: give GB of memory, 0 or more")
    chosen = load_recipe(recipe) if isinstance(recipe, str) else recipe
    found = calibration_images(chosen, images, annotations, prompts, exif, note)
    chosen = spend_bits(sam.model, chosen, found, progress)
    model = copy.deepcopy(sam.model)
    if run_dir is None:
        report = quantize_model(model, chosen, found, progress, None, cache_gb, listener)
    else:
        with open_run(run_dir, identity_of(model, chosen, found)) as directory:
            report = quantize_model(model, chosen, found, progress, directory, cache_gb, listener)
    return Sam(model, f"{sam.name} {chosen.name}", chosen, report.to_dict())


def calibration_images(
    recipe: Recipe,
    images: str | Path | Sequence[Path],
    annotations: str | Path | None = None,
    prompts: str | Path | None = None,
    exif: str = AUTO,
    note: Callable[[str], None] = lambda sentence: None,
) -> list[CalibrationImage]:
    """The images and prompts a recipe calibrates on, drawn with its seed; see ``quantize``."""
    generator = torch.Generator().manual_seed(recipe.calibration.seed)
    settings = recipe.calibration
    if annotations is None:
        if prompts is not None:
            raise UsageError("prompts from boxes, points or detections need annotations")
        if check_exif(exif) != AUTO:
            raise UsageError(f"exif {exif}: is about the frame of annotations, and there are none")
        return grid_of_points(images, settings, generator)
    if not isinstance(images, str | Path):
        raise UsageError("with annotations, images must be the directory that their file names refer to")
    dataset = framed(read_instances(Path(annotations), Path(images)), exif)
    kind = "boxes" if prompts is None else prompts
    by_image = prompts_for(dataset, kind)
    for sentence in (*dataset.notes, *implausible(dataset, by_image, kind)):
        note(sentence)
    return chosen_images(
        [(image, by_image[image.id].prompts) for image in dataset.images if image.id in by_image],
        settings,
        generator,
    )


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
        exif: whether annotations count pixels of images as ``"stored"`` or as ``"displayed"`` after EXIF
            rotation; ``"auto"`` decides by the whole set, see :func:`saqsam.tasks.exif.decide`.

    Returns:
        COCO mask AP, mIoU against ground truth, agreement, and counts; see ``InstanceResult``. Its ``notes``
        say what was decided, and what looks implausible.

    Raises:
        UnknownFrame: an image is rotated or mirrored by EXIF, and the set does not tell its frame.
        AnnotationError: annotations or detections break their own rules.
    """
    dataset = framed(read_instances(Path(annotations), Path(images)), exif, limit=limit)
    found = prompts_for(dataset, prompts, top_k=top_k, score_threshold=score_threshold)
    return evaluate_instances(
        sam,
        dataset,
        found,
        str(prompts),
        reference=reference,
        progress=lambda done, total: progress("evaluate", done, total),
    )
