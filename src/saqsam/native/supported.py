"""What the kernels do not compute, said in words, so that another engine can be taken."""

from __future__ import annotations

from collections.abc import Iterator

from saqsam.families import sam2_names, sam3_names
from saqsam.families.record import Attention
from saqsam.graphs.sam2_source import Sam2Source
from saqsam.graphs.sam3_source import Sam3Source
from saqsam.graphs.source import Source

_ROLES = ("query", "key", "value")
_MOST_LEVELS = 4
"""In an octave: kernels tell two of them apart within an eighth of one."""


def first_problem(problems: Iterator[str]) -> str:
    """The first that is not empty; empty if there is none."""
    return next(filter(None, problems), "")


def unsupported_decoder(source: Source) -> str:
    """Why the mask decoder cannot run on them; empty if it can."""
    return first_problem(_decoder_problems(source))


def _decoder_problems(source: Source) -> Iterator[str]:
    names = source.names
    if source.early_block is not None:
        yield "SAM-HQ's own mask is not drawn by them"
    for layer in names.layers:
        for attention in (layer.self_attention, layer.tokens_to_image, layer.image_to_tokens):
            yield from _attention(source, attention)
        yield from _layers(source, (layer.mlp_in, layer.mlp_out))
    yield from _attention(source, names.final_attention)


def _attention(source: Source, attention: Attention) -> Iterator[str]:
    yield from _layers(source, (*attention.projections, attention.output))
    yield from (_grid(source, f"{attention.path}:{role}") for role in _ROLES)
    yield _grid(source, f"{attention.path}:attention", _MOST_LEVELS)


def sam_problems(source: Source) -> Iterator[str]:
    """What keeps the encoder of a SAM or SAM-HQ from them, part by part; empty where nothing does."""
    names = source.names
    for index, block in enumerate(names.blocks):
        yield from _attention(source, block.attention)
        yield from _layers(source, (block.mlp_in, block.mlp_out))
        if source.vision["use_rel_pos"]:
            yield _tables(source, block.tables, index)
    yield from _layers(source, names.neck_convolutions)


def sam2_problems(source: Sam2Source) -> Iterator[str]:
    """As of ``sam_problems``, of a SAM 2."""
    for block in source.blocks:
        own = block.names
        yield from _attention(source, own.attention)
        yield from _layers(source, (own.mlp_in, own.mlp_out, *((own.projection,) if block.pools else ())))
        if block.pools and (block.grid % 2 or block.window % 2):
            yield f"{own.path} pools queries of an odd number of tokens"
    yield from _layers(source, (*sam2_names.NECK_CONVOLUTIONS, *sam2_names.FEATURE_CONVOLUTIONS))


def sam3_problems(source: Sam3Source) -> Iterator[str]:
    """As of ``sam_problems``, of a SAM 3's tracker."""
    for block in source.names.blocks:
        yield from _attention(source, block.attention)
        yield from _layers(source, (block.mlp_in, block.mlp_out))
    yield from _layers(source, (*sam3_names.NECK_CONVOLUTIONS, *sam2_names.FEATURE_CONVOLUTIONS))


def _layers(source: Source, paths: tuple[str, ...]) -> Iterator[str]:
    for path in paths:
        if source.weight(path) is None:
            yield f"the weight of {path} is float"
        yield _grid(source, f"{path}:input")


def _grid(source: Source, site: str, most_levels: int = 0) -> str:
    """A grid that is not affine, and has no levels in an octave, or more than there may be."""
    grid = source.activation(site)
    if grid is None:
        return f"{site} is float"
    if grid.as_affine() is not None or 0 < grid.levels_each_octave() <= most_levels:
        return ""
    return f"{site} is on a {grid.name} grid"


def _tables(source: Source, tables: tuple[str, str], index: int) -> str:
    fits = all(len(source.packed.rest[name]) == 2 * source.window(index) - 1 for name in tables)
    return "" if fits else f"{tables[0]} is for windows of another size"
