"""Attention maps that are computed a few rows at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from saqsam.export.codes import encoder_codes, total_share
from saqsam.graphs.build import OPSETS
from saqsam.graphs.graph import Graph
from saqsam.graphs.session import open_session, run_session
from saqsam.graphs.source import Source
from saqsam.graphs.writers import writers_of
from saqsam.pack.convert import from_packed
from saqsam.pack.file import read_packed
from saqsam.web.compact import Compact


class Pieces(Compact):
    """A quarter of a head's map at once, in nano."""

    largest_piece: ClassVar[int | None] = 1 << 14


def test_an_encoder_whose_maps_come_in_pieces_is_the_same(packed_nano: Callable[[str], Path]) -> None:
    path = packed_nano("ptq4sam-s-w4a4")
    packed = read_packed(path)
    source, writers = Source(packed), writers_of(packed)
    side = source.image_size
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    found, counts = [], []
    for arithmetic in (Compact, Pieces):
        graph = Graph("encoder", OPSETS[0])
        writers.encoder(graph, source, arithmetic(graph, source))
        model = graph.model({})
        counts.append(sum(node.op_type == "Softmax" for node in model.graph.node))
        session = open_session(model.SerializeToString(), "encoder")
        found.append(run_session(session, "encoder", {"images": pixels.numpy()})[0])
    assert counts[1] > counts[0]
    assert np.array_equal(*found)
    sam, _ = from_packed(packed, path)
    assert total_share(encoder_codes(sam, source, Pieces, pixels[:1], OPSETS[0])) > 0.999
