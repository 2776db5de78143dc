"""``saqsam evaluate --on ray`` and ``--out DIR``: the same figures, from shards."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from saqsam.cli.engine import load_where_packed
from saqsam.cli.many import Distribution
from saqsam.cli.output import listed
from saqsam.errors import InputError

if TYPE_CHECKING:
    from saqsam.cli.progress import Report
    from saqsam.cli.prompted_set import PromptedSet
    from saqsam.sam import Sam
    from saqsam.tasks.instance import InstanceResult


def evaluate_in_shards(
    sam: Sam,
    model: str,
    reference: str | None,
    of: PromptedSet,
    out: Path | None,
    distribution: Distribution,
    report: Report,
    *,
    engine: str,
    zoom: bool | None = None,
    clip_to_box: bool | None = None,
) -> InstanceResult:
    """Evaluate image by image into shards, continue what is there, and sum up in the order of the set.

    Args:
        sam: the model, loaded here for its name and hash.
        model: what the workers load.
        reference: what the workers compare with.
        of: the set.
        out: directory of shards; None for one that vanishes at the end.
        distribution: who works.
        report: told of every image.
        engine: that computes packed models in the workers, the model's own.
        zoom, clip_to_box: how the workers answer boxes, as ``Sam.answering_boxes``.

    Raises:
        InputError: images could not be read and are not to be left out, or none could.
    """
    from saqsam.datasets.bad_entries import BadEntries
    from saqsam.datasets.listing import from_annotations
    from saqsam.many.tasks import EvaluateJob, figures_of, unreadable
    from saqsam.many.work import Item, identity_of
    from saqsam.tasks.instance import summary

    bad = BadEntries(of.on_error)
    dataset, prompts = of.read(bad)
    device = distribution.device
    load = partial(_load, engine=engine, device=device, zoom=zoom, clip_to_box=clip_to_box)
    job = EvaluateJob(partial(load, model), None if reference is None else partial(load, reference))
    items = [
        Item(image, prompts.get(image.id), dataset.instances_of(image.id))
        for image in from_annotations(dataset)
    ]
    judge = None if reference is None else load(reference)
    identity = identity_of("evaluate", sam, items, judge)
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "run" if out is None else distribution.directory(out)
        rows = distribution.run(job, items, identity, directory, False, report, "evaluate").rows
    failures = unreadable(rows)
    for error in failures if bad.skip else ():
        bad.leave_out_image(error)
    if failures and not bad.skip:
        raise InputError(
            f"{len(failures)} of {len(rows)} images could not be read, figures without them would be of "
            f"another set: {listed(failures)}; mend them, or use --on-error skip"
        )
    read = {row["image_id"] for row in rows if row["unreadable"] is None}
    bad.refuse_nothing(len(read))
    kept = dataset.only([image for image in dataset.images if image.id in read])
    return summary(sam, kept, prompts, str(of.prompts), figures_of(rows), bad)


def _load(model: str, engine: str, device: str, zoom: bool | None, clip_to_box: bool | None) -> Sam:
    return load_where_packed(engine, model, device).answering_boxes(zoom, clip_to_box)
