"""Applies a recipe's folds to an attached model and proves that they changed nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from saqsam.calibrate.histogram import Histogram
from saqsam.errors import InvariantError
from saqsam.families.embedding import Embedding
from saqsam.families.record import (
    EQUALISATION,
    KEY_CENTRING,
    QUERY_KEY_ROTATION,
    SIGN_FLIP,
    VALUE_FOLDS,
    Model,
)
from saqsam.families.registry import decoder_of, encoder_of
from saqsam.folds.bimodal import flip_signs, is_bimodal
from saqsam.folds.centre import centre_keys
from saqsam.folds.equalise import equalise_query_key, scale_values
from saqsam.folds.projections import KEY, Projections, collecting
from saqsam.folds.rotate_heads import rotate_queries_and_keys, rotate_values
from saqsam.folds.rotate_stream import rotate_stream
from saqsam.models.sites import DECODER, ENCODER, attention_rows
from saqsam.recipe import Folds

TOLERANCE = 1e-3
"""Largest change allowed, relative to the largest output; float32 rounding stays far below it."""

FoldRecord = dict[str, dict[str, float]]
"""What each fold did, by attention path (or the encoder's): channels flipped, largest mean removed, largest
factor, channels turned together."""


def fold_decoder(
    model: Model, folds: Folds, run: Callable[[], Tensor], generator: torch.Generator
) -> FoldRecord:
    """Fold the mask decoder's attentions.

    Args:
        model: attached model whose quantizers are still observing.
        folds: the recipe's switches.
        run: runs the decoder on calibration prompts and returns its mask logits.
        generator: draws rotations; on the CPU.

    Raises:
        InvariantError: the outputs changed by more than rounding.
    """
    wanted = folds.key_centring or folds.query_key_equalisation or folds.value_output_scaling
    rotated = folds.value_rotation or folds.query_key_rotation
    if not (wanted or rotated or folds.bimodal_sign_flip):
        return {}
    rows = {row.path: row for row in attention_rows(model, DECODER)}
    found = {path: Projections(model.get_submodule(path), path) for path in rows}
    record: FoldRecord = {path: {} for path in found}

    def one_step(fold: str, action: Callable[[str, Projections], None]) -> None:
        for projections in found.values():
            projections.statistics.clear()
        with collecting(found):
            before = run()
        for path, projections in found.items():
            if fold in rows[path].exact:
                action(path, projections)
        _check_unchanged(decoder_of(model).path, before, run())

    def flip(path: str, projections: Projections) -> None:
        # PTQ4SAM tests only attentions in which tokens query the image: the cross and the final one.
        if rows[path].asks_image and is_bimodal(keys[path]):
            record[path]["channels_flipped"] = flip_signs(projections)

    def equalise(path: str, projections: Projections) -> None:
        record[path]["query_key_factor"] = equalise_query_key(projections)

    if folds.query_key_rotation:
        turn = partial(rotate_queries_and_keys, generator=generator)
        one_step(QUERY_KEY_ROTATION, _recorded(record, "query_key_turned", turn))
    if folds.value_rotation:
        turn = partial(rotate_values, generator=generator)
        one_step(VALUE_FOLDS, _recorded(record, "value_turned", turn))
    if folds.bimodal_sign_flip:
        keys = _key_histograms(found, run)
        one_step(SIGN_FLIP, flip)
    if folds.key_centring:
        one_step(KEY_CENTRING, _recorded(record, "mean_removed", centre_keys))
    if folds.query_key_equalisation:
        one_step(EQUALISATION, equalise)
    if folds.value_output_scaling:
        one_step(VALUE_FOLDS, _recorded(record, "value_factor", scale_values))
    return {path: done for path, done in record.items() if done}


def fold_encoder(
    model: Model, folds: Folds, run: Callable[[], Embedding], generator: torch.Generator
) -> FoldRecord:
    """Fold the image encoder: rotations, key centring and value scaling, each in those attentions in which
    it is exact (sign flips and equalisation of queries and keys are for the decoder).

    Args and errors as ``fold_decoder``; ``run`` encodes a calibration image or more.

    Raises:
        UsageError: the residual stream cannot be turned; see ``rotate_stream``.
    """
    turned = folds.residual_rotation or folds.encoder_query_key_rotation or folds.value_rotation
    if not (turned or folds.key_centring or folds.value_output_scaling):
        return {}
    exact = {row.path: row.exact for row in attention_rows(model, ENCODER)}
    found = {path: Projections(model.get_submodule(path), path) for path in exact}
    record: FoldRecord = {path: {} for path in found}
    stream = encoder_of(model).path
    before = run() if turned else None
    if folds.residual_rotation:
        record[stream] = {"stream_turned": rotate_stream(model, generator)}
    for path, projections in found.items():
        if folds.encoder_query_key_rotation and QUERY_KEY_ROTATION in exact[path]:
            record[path]["query_key_turned"] = rotate_queries_and_keys(projections, generator)
        if folds.value_rotation and VALUE_FOLDS in exact[path]:
            record[path]["value_turned"] = rotate_values(projections, generator)
    if folds.key_centring or folds.value_output_scaling:
        with collecting(found):
            seen = run()
        before = seen if before is None else before
    for path, projections in found.items():
        if folds.key_centring and KEY_CENTRING in exact[path]:
            record[path]["mean_removed"] = centre_keys(projections)
        if folds.value_output_scaling and VALUE_FOLDS in exact[path]:
            record[path]["value_factor"] = scale_values(projections)
    if before is not None:
        for one, other in zip(before.tensors, run().tensors, strict=True):
            _check_unchanged(stream, one, other)
    return {path: done for path, done in record.items() if done}


def _recorded(
    record: FoldRecord, key: str, fold: Callable[[Projections], float]
) -> Callable[[str, Projections], None]:
    def action(path: str, projections: Projections) -> None:
        record[path][key] = fold(projections)

    return action


def _key_histograms(found: dict[str, Projections], run: Callable[[], Tensor]) -> dict[str, Histogram]:
    """Histogram of each attention's keys."""
    seen: dict[str, Histogram] = {path: Histogram() for path in found}
    handles = []
    for path, projections in found.items():

        def see(module: object, inputs: object, output: Tensor, path: str = path) -> None:
            seen[path] = seen[path].merge(Histogram.of(output, f"{path}:key"))

        handles.append(projections.layers[KEY].register_forward_hook(see))
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _check_unchanged(stage: str, before: Tensor, after: Tensor) -> None:
    change = float((after - before).abs().max())
    allowed = TOLERANCE * float(before.abs().max())
    if not change <= allowed or not bool(torch.isfinite(after).all()):
        raise InvariantError(stage, f"a fold changed the float output by {change:.3g}, allowed {allowed:.3g}")
