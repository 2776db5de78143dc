"""The decoder cut in three gives, bit for bit, what the whole graph gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import SamConfig

from saqsam.engines.load import sessions_model
from saqsam.graphs.build import OPSETS, build_graphs
from saqsam.graphs.exactness import Exactness
from saqsam.graphs.graph import Graph
from saqsam.graphs.integer import Integer
from saqsam.graphs.model import OnnxSam
from saqsam.graphs.portable import Portable
from saqsam.graphs.session import open_session
from saqsam.graphs.source import Source
from saqsam.pack.file import read_packed

Pair = tuple[OnnxSam, OnnxSam]
Maker = Callable[[Graph, Source], Portable]


def integer(graph: Graph, source: Source) -> Portable:
    """The engine's arithmetic."""
    return Integer(graph, source, Exactness())


@pytest.fixture(scope="module", params=[integer, Portable], ids=["integer", "portable"])
def pair(request: pytest.FixtureRequest, packed_nano: Callable[[str], Path]) -> Pair:
    """The whole graph and the cut one."""
    packed = read_packed(packed_nano("ptq4sam-s-w4a4"))
    config = SamConfig(**packed.config)
    encoder, decoder = (
        open_session(graph.SerializeToString(), "whole")
        for graph in build_graphs(packed, OPSETS[0], request.param, full_size=False)
    )
    whole = OnnxSam(config, encoder, decoder, "whole")
    return whole, sessions_model(packed, config, "cut", request.param)


def same(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> bool:
    """Logits and scores equal to the last bit."""
    return all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def embedding_of(model: OnnxSam, seed: int) -> Tensor:
    """Embedding of a random picture."""
    side = model.config.vision_config.image_size
    pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(seed))
    return model.vision_encoder(pixels).last_hidden_state


def test_prompts_of_two_images_in_turns(pair: Pair) -> None:
    whole, cut = pair
    embeddings = [embedding_of(whole, seed) for seed in (0, 1)]
    coords = torch.rand(5, 2, 2, generator=torch.Generator().manual_seed(2)) * 200
    labels = torch.tensor([[2.0, 3.0]]).expand(5, 2)
    answers = [whole.decode(embedding, coords, labels) for embedding in embeddings]
    assert not same(answers[0], answers[1])
    for index in (0, 0, 1, 0):
        assert same(cut.decode(embeddings[index], coords, labels), answers[index])
        some = cut.decode(embeddings[index], coords[3:], labels[3:])
        assert same(some, (answers[index][0][3:], answers[index][1][3:]))


def test_an_embedding_changed_in_place_is_another_image(pair: Pair) -> None:
    whole, cut = pair
    embedding = embedding_of(whole, 0)
    coords, labels = torch.tensor([[[20.0, 30.0], [0.0, 0.0]]]), torch.tensor([[1.0, -1.0]])
    cut.decode(embedding, coords, labels)
    embedding.mul_(1.5)
    assert same(cut.decode(embedding, coords, labels), whole.decode(embedding, coords, labels))


@pytest.mark.parametrize("masks", [1, 3])
def test_mask_prompts_before_and_after_prompts_without(pair: Pair, masks: int) -> None:
    whole, cut = pair
    embedding = embedding_of(whole, 0)
    generator = torch.Generator().manual_seed(3)
    side = 4 * embedding.shape[-1]
    mask = torch.randn(masks, 1, side, side, generator=generator) * 5
    coords, labels = torch.rand(3, 2, 2, generator=generator) * 200, torch.ones(3, 2)
    for given in (None, mask, None):
        assert same(
            cut.decode(embedding, coords, labels, given), whole.decode(embedding, coords, labels, given)
        )
