"""A model as a page has it: its graphs, what is said of it, and the proof that both belong together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from saqsam import api
from saqsam.drop_in.directory import packed_file
from saqsam.export.parity import Case, Parity, check_parity
from saqsam.families.record import Model
from saqsam.families.registry import family_of, sizes_of
from saqsam.graphs.build import OPSETS
from saqsam.graphs.writers import writers_of
from saqsam.models.stored import stored_tensors
from saqsam.pack.convert import from_packed, plain_config
from saqsam.pack.file import PackedModel, is_packed, read_packed
from saqsam.segment.zoom import own_answering
from saqsam.web.facts import count_numbers, model_facts
from saqsam.web.graphs import described, maker_for, refuse_preprocessing, web_graphs, web_sam

Progress = Callable[[str, int, int], None]
PARITY = "parity.json"


@dataclass(frozen=True)
class WebModel:
    """A model to be put on a page, float or packed.

    Attributes:
        model: audited or float, on the CPU.
        packed: its contents; those of a float model are all in ``rest``.
        facts: see :mod:`saqsam.web.facts`.
    """

    model: Model
    packed: PackedModel
    facts: dict[str, Any]


@dataclass(frozen=True)
class WebParts:
    """A model's files, and what a page is told of them.

    Attributes:
        files: contents by name, ``parity.json`` among them.
        entry: for the manifest, plain JSON types; paths are names of ``files``.
        parity: what was compared, or ``None`` where that was declined.
    """

    files: dict[str, bytes]
    entry: dict[str, Any]
    parity: Parity | None


def read_model(source: str | Path) -> WebModel:
    """Load a model of either kind.

    Raises:
        CheckpointError: it cannot be read.
    """
    path = packed_file(source) or Path(source).expanduser()
    # A page is shown to others: it tells the name of a file, not the folders it lies in.
    called = path.name if path.exists() else str(source)
    if is_packed(path):
        packed = read_packed(path)
        model, recipe = from_packed(packed, path)
        packed = replace(packed, config=model.config.to_dict())
        own = own_answering(source, packed.records)
        facts = model_facts(called, model.config, recipe, own=own, file=path, numbers=count_numbers(packed))
        return WebModel(model, packed, facts)
    sam = api.load(source)
    model = sam.model
    twins = {twin for _, twin in family_of(model).tied}
    rest = {
        name: one.detach().float().contiguous()
        for name, one in stored_tensors(model).items()
        if name not in twins
    }
    packed = PackedModel(plain_config(model), {}, {}, {}, rest, {})
    facts = model_facts(
        called, model.config, None, own=sam.answering(), file=None, numbers=count_numbers(packed)
    )
    return WebModel(model, packed, facts)


def web_parts(model: WebModel, cases: Sequence[Case], verify: bool, progress: Progress) -> WebParts:
    """Build a model's graphs and compare what will be shipped with the model itself.

    Args:
        model: from :func:`read_model`.
        cases: images with prompts to compare on.
        verify: compare; the files say so where it was not done.
        progress: called with a stage's name, steps done and steps in total.

    Raises:
        UsageError: a part of the model is not supported in graphs, or a page cannot prepare its images.
        InvariantError: the graphs do not give the model's masks.
    """
    refuse_preprocessing(sizes_of(model.model).preprocessing)
    progress("build", 0, 1)
    graphs = web_graphs(model.packed)
    progress("build", 1, 1)
    parity = None
    if verify:
        stand_in = web_sam(model.model.config, graphs, model.facts["name"])
        source, maker = writers_of(model.packed).source(model.packed), maker_for(model.packed)
        parity = check_parity(model.model, stand_in, cases, source, maker, OPSETS[0], progress)
    contents = graphs.files()
    listed = {
        name: {"path": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in contents.items()
    }
    proof = {
        "verified": verify,
        "recipe": model.packed.recipe or None,
        "sha256": {name: row["sha256"] for name, row in listed.items()},
        "parity": None if parity is None else parity.to_dict(),
    }
    keys = ("encoder", "image", "prompts")
    entry = {
        **model.facts,
        **described(model.packed),
        "files": dict(zip(keys, listed.values(), strict=True)),
        "parity": None if parity is None else _summary(parity),
    }
    return WebParts({**contents, PARITY: (json.dumps(proof, indent=2) + "\n").encode()}, entry, parity)


def _summary(parity: Parity) -> dict[str, Any]:
    """The figures that a page shows."""
    return {
        "prompts": parity.prompts,
        "decoder_mask_iou": parity.decoder_mask_iou,
        "mask_iou": parity.mask_iou,
        "repeatability": parity.repeatability,
        "equal_codes": parity.equal_codes,
    }
