"""Perceptual-Consistency Clipping (PCC, SAQ-SAM section 3.2): coordinate descent over percentiles.

For each decoder attention in network order, and in it for each of four targets, every candidate clip is
scored by how much of the float attention focus survives when the target is quantized with it; the best is
kept, the target stays quantized, and the next one is searched. Two sweeps.

Differences from the released code, all on purpose:

* over several images by default: the *score* is averaged, not the clips (``clip.images: 1`` is theirs);
* the image is not chosen by hand, and no observer sees it a second time;
* the 58 quantiles of a tensor are read from one sort of it;
* image-side queries (4,096 in SAM) are subsampled evenly, since queries do not depend on each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from saqsam.clip.focus import focus_iou, focus_mask
from saqsam.clip.targets import (
    KEY,
    KEY_INPUT,
    QUERY,
    QUERY_INPUT,
    AttentionCase,
    Interval,
    two_sided_quantiles,
)
from saqsam.errors import NumericalError
from saqsam.families.decoder_attention import QuantDecoderAttention
from saqsam.families.record import Model
from saqsam.models.lookup import module_at
from saqsam.models.sites import decoder_attention_paths
from saqsam.recipe import Clip

_TARGETS = (QUERY_INPUT, KEY_INPUT, QUERY, KEY)


@dataclass
class ClipRecord:
    """What PCC did at one site, for reports.

    Attributes:
        site: full site name.
        low, high: range of the tensor before clipping.
        clip_low, clip_high: range chosen.
        percentile: percentile of the symmetric search that won.
        iou_before: focus IoU with this tensor quantized over its whole range, all else as chosen.
        iou_after: focus IoU with the chosen clip.
        curve: focus IoU of every candidate of the last sweep, in the order of the percentiles.
    """

    site: str
    low: float
    high: float
    clip_low: float
    clip_high: float
    percentile: float
    iou_before: float
    iou_after: float
    curve: list[float]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def clip_decoder(
    model: Model,
    settings: Clip,
    images: int,
    run: Callable[[], object],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[ClipRecord]:
    """Choose and set the ranges of the query and key quantizers of all decoder attentions.

    Args:
        model: attached model; all its quantizers still observe.
        settings: the recipe's ``clip`` section.
        images: how many images ``run`` batches.
        run: runs the mask decoder once on all images and prompts of the search, as one batch.
        progress: called with attentions done and in total.

    Returns:
        One record for each clipped site; afterwards those sites quantize and no longer observe.

    Raises:
        NumericalError: NaN or infinity at a site, which is named.
    """
    paths = decoder_attention_paths(model)
    attentions = {path: module_at(model, path, QuantDecoderAttention) for path in paths}
    references: dict[str, Tensor] = {}
    records: dict[str, ClipRecord] = {}

    def remember(path: str, case: AttentionCase) -> None:
        references[path] = focus_mask(case.scores(QUERY)(None), settings.focus_threshold)

    with _intercepting(attentions, images, settings.max_queries, remember):
        run()
    done = 0
    for _ in range(settings.sweeps):

        def search(path: str, case: AttentionCase) -> None:
            nonlocal done
            for record in _search_attention(case, references[path], settings):
                records[record.site] = record
            _apply(case)
            done += 1
            progress(done, settings.sweeps * len(paths))

        with _intercepting(attentions, images, settings.max_queries, search):
            run()
    return list(records.values())


@contextmanager
def _intercepting(
    attentions: dict[str, QuantDecoderAttention],
    images: int,
    max_queries: int,
    action: Callable[[str, AttentionCase], None],
) -> Iterator[None]:
    """Before each attention runs, hand its inputs to ``action``; what it decides acts in this very pass.

    Attentions still observing keep observing nothing: no observer is attached at this point.
    """
    handles = []
    for path, attention in attentions.items():

        def before(
            module: torch.nn.Module,
            inputs: tuple[Any, ...],
            named: dict[str, Any],
            path: str = path,
            attention: QuantDecoderAttention = attention,
        ) -> None:
            query = named["query"] if "query" in named else inputs[0]
            key = named["key"] if "key" in named else inputs[1]
            case = AttentionCase.of(attention, query, key, images, max_queries)
            case.clips = _present_clips(case)
            action(path, case)

        handles.append(attention.register_forward_pre_hook(before, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _present_clips(case: AttentionCase) -> dict[int, Interval]:
    """Ranges that earlier sweeps already set, read back from the quantizers."""
    clips = {}
    for target in _TARGETS:
        quantizer = case.quantizer(target)
        if quantizer is not None and quantizer.has_grid:
            clips[target] = quantizer.grid.bounds()
    return clips


def _search_attention(case: AttentionCase, reference: Tensor, settings: Clip) -> Iterator[ClipRecord]:
    """Coordinate descent over the four targets of one attention."""
    parts = case.parts()
    references = reference.split([len(part.query) * part.prompts for part in parts])
    for target in _TARGETS:
        quantizer = case.quantizer(target)
        if quantizer is None:
            continue
        x = case.tensor(target)
        whole = (float(x.min()), float(x.max()))
        if not (math.isfinite(whole[0]) and math.isfinite(whole[1])):
            raise NumericalError(quantizer.site, "NaN or infinity in its values; check weights and images")

        scores = [part.scores(target) for part in parts]

        def score(clip: Interval, scores: Sequence[Callable[[Interval], Tensor]] = scores) -> float:
            found = [
                focus_iou(at(clip), part, settings.focus_threshold) * len(part)
                for at, part in zip(scores, references, strict=True)
            ]
            return sum(found) / len(reference)

        candidates = two_sided_quantiles(x, settings.percentiles)
        curve = [score(clip) for clip in candidates]
        winner = max(range(len(curve)), key=curve.__getitem__)  # the first wins ties: the tightest clip
        clip, reached = candidates[winner], curve[winner]
        if settings.independent_bounds:
            clip, reached = _refine_bounds(clip, reached, candidates, score)
        case.clips[target] = clip
        yield ClipRecord(
            quantizer.site, *whole, *clip, settings.percentiles[winner], score(whole), reached, curve
        )


def _refine_bounds(
    clip: Interval, reached: float, candidates: list[Interval], score: Callable[[Interval], float]
) -> tuple[Interval, float]:
    """Move the low end, then the high end, each over all candidates with the other end held."""
    for low, _ in candidates:
        value = score((low, clip[1]))
        if value > reached:
            clip, reached = (low, clip[1]), value
    for _, high in candidates:
        value = score((clip[0], high))
        if value > reached:
            clip, reached = (clip[0], high), value
    return clip, reached


def _apply(case: AttentionCase) -> None:
    """Give the chosen clips to the quantizers: from here on they quantize."""
    for target, (low, high) in case.clips.items():
        quantizer = case.quantizer(target)
        if quantizer is not None:
            quantizer.cover(torch.tensor(low), torch.tensor(high))
