"""Are the codes equal? Every step of a graph against the same step of the PyTorch model.

A quantized network multiplies small differences: a value that a rounding error of 1e-7 pushes over the
middle between two codes moves its neighbours by a whole step, and after a few blocks two correct
implementations differ by as much as quantization itself. So each block is given the *same* input in both
worlds, and what is compared is every code that it computes from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from saqsam.families.embedding import Embedding
from saqsam.families.record import CONVOLUTION, Model
from saqsam.families.registry import decoder_of, encoder_of
from saqsam.graphs.decoder import decoder_graph
from saqsam.graphs.encoder import EncoderWriter
from saqsam.graphs.graph import Graph
from saqsam.graphs.model import early_input, point_inputs
from saqsam.graphs.portable import Portable
from saqsam.graphs.session import open_session, run_session
from saqsam.graphs.source import Source
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
    encoder = encoder_of(model)
    inputs: dict[int, Tensor] = {}

    def keep(index: int) -> Callable[..., None]:
        return lambda module, given: inputs.__setitem__(index, given[0])

    parts: list[nn.Module] = [*encoder.blocks, encoder.neck]
    hooks = [part.register_forward_pre_hook(keep(index)) for index, part in enumerate(parts)]
    try:
        encoder.module(pixel_values)
    finally:
        for hook in hooks:
            hook.remove()
    shares: Shares = {}
    for index, part in enumerate(parts):
        is_neck = index == len(encoder.blocks)
        path = encoder.neck_path if is_neck else encoder.block_path(index)
        sites = [s for s in _activation_sites(model, ENCODER) if s.path.startswith(f"{path}.")]
        run: Callable[..., Any] = part if is_neck else partial(encoder.run_block, part)
        seen = _seen(model, sites, partial(run, inputs[index]))
        graph = Graph(path, opset)
        arithmetic = maker(graph, source)
        writer = EncoderWriter(graph, source, arithmetic)
        x = graph.input("tokens", tuple(inputs[index].shape))
        output = writer.neck(x) if is_neck else writer.block(x, index)
        graph.output("output", output, None)
        shares.update(_compare(graph, arithmetic, seen, {"tokens": inputs[index].numpy()}))
    return shares


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
    decoder_graph(graph, source, arithmetic, full_size=False)
    coords, kinds = point_inputs(boxes, points, labels)
    low = 4 * source.grid
    inputs = {
        "image_embeddings": embedding.main.numpy(),
        **early_input(embedding),
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
