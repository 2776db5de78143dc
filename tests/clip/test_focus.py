"""Focus masks, their IoU and candidate clips against the plainest possible code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saqsam.clip.focus import focus_iou, focus_mask
from saqsam.clip.targets import once_per_image, two_sided_quantiles
from saqsam.recipe.fields import PCC_PERCENTILES


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Tensor, Tensor, float]:
    """Scores of two attention maps, and a threshold."""
    shape = tuple(draw(st.integers(1, 4)) for _ in range(4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    maps = [3 * torch.randn(shape, generator=generator) for _ in range(2)]
    return maps[0], maps[1], draw(st.sampled_from([0.1, 0.5, 0.9]))


def naive_iou(one: Tensor, other: Tensor, threshold: float) -> float:
    """Loops over prompts, heads, queries and keys, on probabilities as the paper defines focus."""
    one, other = (torch.softmax(scores.double(), -1) for scores in (one, other))
    found = []
    for prompt in range(one.shape[0]):
        for head in range(one.shape[1]):
            both = either = 0
            for a, b in zip(one[prompt, head], other[prompt, head], strict=True):
                for key in range(len(a)):
                    x = bool(a[key] > threshold * max(a))
                    y = bool(b[key] > threshold * max(b))
                    both, either = both + (x and y), either + (x or y)
            found.append(both / (either + 1e-6))
    return sum(found) / len(found)


@given(pairs())
@settings(max_examples=100, deadline=None)
def test_iou_is_that_of_the_loop(pair: tuple[Tensor, Tensor, float]) -> None:
    one, other, threshold = pair
    mask = focus_mask(other, threshold)
    assert bool(mask.any(-1).all())
    assert focus_iou(one, mask, threshold) == pytest.approx(naive_iou(one, other, threshold), abs=1e-5)
    assert focus_iou(other, mask, threshold) == pytest.approx(1.0, abs=1e-5)


@given(st.integers(0, 2**31), st.integers(1, 3000))
@settings(max_examples=60, deadline=None)
def test_candidates_are_the_quantiles_of_numpy(seed: int, count: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(count, generator=draw) / torch.rand(count, generator=draw)
    found = two_sided_quantiles(x.reshape(1, -1), PCC_PERCENTILES)
    raw = x.double().numpy()
    expected = [(np.quantile(raw, 1 - p), np.quantile(raw, p)) for p in PCC_PERCENTILES]
    assert np.allclose(np.array(found), np.array(expected), rtol=1e-6, atol=1e-9)


def test_what_is_the_same_for_all_prompts_is_kept_once() -> None:
    x = torch.randn(2, 1, 5, 3, generator=torch.Generator().manual_seed(0))
    assert once_per_image(x.expand(-1, 4, -1, -1)).shape == (2, 1, 5, 3)
    different = x.repeat(1, 4, 1, 1)
    different[1, 3, 4, 2] += 1e-6
    assert torch.equal(once_per_image(different), different)
