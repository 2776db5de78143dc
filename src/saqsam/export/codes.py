"""Are the codes equal? Every step of a graph against the same step of the PyTorch model.

A quantized network multiplies small differences: a value that a rounding error of 1e-7 pushes over the
middle between two codes moves its neighbours by a whole step, and after a few blocks two correct
implementations differ by as much as quantization itself. So each block is given the *same* input in both
worlds, and what is compared is every code that it computes from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from saqsam.families.embedding import Embedding
from saqsam.families.record import CONVOLUTION, Model, State
from saqsam.families.registry import decoder_of, encoder_of
from saqsam.graphs.graph import Graph
from saqsam.graphs.portable import Portable
from saqsam.graphs.session import open_session, run_session
from saqsam.graphs.source import Source
from saqsam.graphs.writers import writers_of
from saqsam.models.attach import all_quantizers
from saqsam.models.sites import ATTENTION, ENCODER, KEY, QUERY, VALUE, WEIGHT, Site

if TYPE_CHECKING:
    from saqsam.images.frame import Frame
    from saqsam.prompts.prompts import Prompts

Maker = Callable[[Graph, Source], Portable]
Shares = dict[str, tuple[int, int]]
"""Equal codes and codes in all, by site name."""

_LARGEST = 1 << 25
"""Attention maps with more elements than this are left out: PyTorch never holds them whole either."""
_PROMPTS = 8


@torch.no_grad()
def encoder_codes(model: Model, source: Source, maker: Maker, pixel_values: Tensor, opset: int) -> Shares:
    """Compare the image encoder block by block.

    Args:
        model: the audited model.
        source: the packed model the graphs are built from.
        maker: arithmetic under test.
        pixel_values: ``(1, 3, S, S)``.
        opset: of the graphs.
    """
    encoder, steps = encoder_of(model), writers_of(source.packed).steps
    left = _activation_sites(model, ENCODER)
    state: State = (encoder.start(pixel_values),)
    shares: Shares = {}
    for index, block in enumerate(encoder.blocks):
        path, x = encoder.block_path(index), state[0]
        sites = [site for site in left if site.path.startswith(f"{path}.")]
        left = [site for site in left if site not in sites]
        made: list[Tensor] = []
        seen = _seen(model, sites, lambda: made.append(encoder.run_block(block, x)))  # noqa: B023
        graph = Graph(path, opset)
        arithmetic = maker(graph, source)
        steps(graph, source, arithmetic).block(graph.input("tokens", tuple(x.shape)), index)
        shares.update(_compare(graph, arithmetic, seen, {"tokens": x.numpy()}))
        state = encoder.carry(index, state, made[0])
    inputs = {f"state_{place}": x.numpy() for place, x in enumerate(state)}
    seen = _seen(model, left, lambda: encoder.finish(state))
    graph = Graph(encoder.neck_path, opset)
    arithmetic = maker(graph, source)
    names = [graph.input(name, x.shape) for name, x in inputs.items()]
    steps(graph, source, arithmetic).finish(names)
    return shares | _compare(graph, arithmetic, seen, inputs)


@torch.no_grad()
def decoder_codes(
    model: Model,
    source: Source,
    maker: Maker,
    embedding: Embedding,
    prompts: Prompts,
    frame: Frame,
    opset: int,
) -> Shares:
    """Compare the mask decoder on a few prompts of one image, given the same embedding."""
    few = prompts[:_PROMPTS]
    boxes = None if few.boxes is None else frame.scale_boxes(few.boxes)[None]
    points = None if few.points is None else frame.scale_points(few.points)[None]
    labels = None if few.labels is None else few.labels[None]
    sites = [site for site in _activation_sites(model) if site.part != ENCODER]
    seen = _seen(
        model,
        sites,
        lambda: decoder_of(model).answer(
            embedding, input_boxes=boxes, input_points=points, input_labels=labels, multimask_output=True
        ),
    )
    graph = Graph("decoder", opset)
    arithmetic = maker(graph, source)
    writers = writers_of(source.packed)
    writers.decoder(graph, source, arithmetic, full_size=False)
    coords, kinds = writers.model.point_inputs(boxes, points, labels)
    low = 4 * source.grid
    inputs = {
        **writers.model.image_inputs(embedding),
        "point_coords": coords[0].numpy(),
        "point_labels": kinds[0].numpy(),
        "mask_input": np.zeros((1, 1, low, low), np.float32),
        "has_mask_input": np.zeros(1, np.float32),
        "mask_slots": np.arange(1),
    }
    return _compare(graph, arithmetic, seen, inputs)


def _activation_sites(model: Model, part: str | None = None) -> list[Site]:
    return [s for s in all_quantizers(model) if s.role != WEIGHT and part in (None, s.part)]


def _seen(model: Model, sites: list[Site], run: Callable[[], Any]) -> dict[Site, Tensor]:
    """What each site's quantizer returned during ``run``; a map that came in pieces is put together."""
    pieces: dict[Site, list[Tensor]] = {}
    quantizers = all_quantizers(model)

    def keep(site: Site) -> Callable[..., None]:
        return lambda module, given, output: pieces.setdefault(site, []).append(output)

    hooks = [quantizers[site].register_forward_hook(keep(site)) for site in sites]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return {site: torch.cat(found) for site, found in pieces.items()}


def _compare(graph: Graph, arithmetic: Portable, seen: dict[Site, Tensor], inputs: dict[str, Any]) -> Shares:
    """Run the graph and count, for each site, the values that are the very same grid point."""
    kept = {
        site: value for site, value in seen.items() if site.role != ATTENTION or value.numel() <= _LARGEST
    }
    names: dict[str, Site] = {}
    for site in kept:
        for index, value in enumerate(arithmetic.rounded_at(site.name)):
            name = f"{site.name}#{index}"
            names[name] = site
            graph.output(name, value, None)
    session = open_session(graph.model({}).SerializeToString(), graph.name)
    found: dict[Site, list[Any]] = {}
    for name, array in zip(names, run_session(session, graph.name, inputs, list(names)), strict=True):
        found.setdefault(names[name], []).append(array)
    return {site.name: _equal(site, kept[site].numpy(), arrays) for site, arrays in found.items()}


def _equal(site: Site, expected: Any, arrays: list[Any]) -> tuple[int, int]:
    """(equal, total) of one site; heads and transposed keys are brought into PyTorch's order."""
    array = np.concatenate(arrays, axis=1) if len(arrays) > 1 else arrays[0]
    if site.role == KEY:
        array = array.swapaxes(-1, -2)
    if site.role in (QUERY, KEY, VALUE) and site.part != ENCODER:
        array = array.swapaxes(1, 2)  # (P, heads, N, d) -> (P, N, heads, d)
        array = array.reshape(*array.shape[:2], -1)
    if site.part != ENCODER:
        # Tokens come as (1, P, T, C), image positions as (P, 1, N, C); a row of the graph may stand for all.
        expected = expected if site.role == ATTENTION else expected.reshape(-1, *expected.shape[2:])
    elif site.kind == CONVOLUTION:
        expected = expected.transpose(0, 2, 3, 1)
    else:
        array = array.reshape(expected.shape)
    same = np.isclose(expected, array, rtol=1e-4, atol=0)  # neighbouring codes are at least 1/255 apart
    return int(np.count_nonzero(same)), int(same.size)


def total_share(shares: Shares) -> float:
    """Share of equal codes over all sites; 1 where there are none."""
    equal, total = (sum(column) for column in zip(*shares.values(), strict=True)) if shares else (1, 1)
    return equal / total


def worst_site(shares: Shares) -> tuple[str, float]:
    """Name and share of the site with the fewest equal codes."""
    each: Iterator[tuple[str, float]] = ((name, equal / total) for name, (equal, total) in shares.items())
    return min(each, key=lambda row: row[1], default=("", 1.0))
