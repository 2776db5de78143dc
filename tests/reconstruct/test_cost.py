"""How often the encoder runs: not with the number of units, and hardly beyond two paths of the images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from tests.conftest import make_tiny_sam
from torch import nn
from transformers import SamModel

from saqsam.pipeline import Report
from saqsam.reconstruct.acceptance import MOST_JUDGING, judging_images

Quantized = Callable[..., tuple[SamModel, Report]]
IMAGES, BLOCKS = 8, 4
MANY = (
    *(f"calibration.images={IMAGES}", "calibration.prompts=1", "attention_grid=affine"),
    *("reconstruct.iterations=1", "reconstruct.batch=1"),
)


@contextmanager
def counting(kind: type[nn.Module]) -> Iterator[Counter[bool]]:
    """Forward passes of one image through a block, by whether gradients were recorded."""
    calls: Counter[bool] = Counter()
    forward = kind.forward

    def counted(self: nn.Module, *arguments: object, **keywords: object) -> object:
        calls[torch.is_grad_enabled()] += 1
        return forward(self, *arguments, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "forward", counted)
        yield calls


@pytest.fixture(scope="module")
def block(quantized: Quantized) -> type[nn.Module]:
    """The class of the encoder's blocks."""
    return type(make_tiny_sam().vision_encoder.layers[0])


@pytest.fixture(scope="module")
def calibration(quantized: Quantized, block: type[nn.Module]) -> int:
    """Passes through blocks without any learning."""
    with counting(block) as calls:
        quantized("saq-sam-w4a4", *MANY, "reconstruct.encoder=none", "reconstruct.decoder=none")
    return calls[False]


@pytest.mark.parametrize(("unit", "objective"), [("stage", "par"), ("block", "par"), ("block", "local")])
def test_two_passes_of_the_images_and_a_few_whatever_the_number_of_units(
    quantized: Quantized, block: type[nn.Module], calibration: int, unit: str, objective: str
) -> None:
    """Float path, quantized path, judging; one image for the estimate. Rates of 0 keep what was learned."""
    still = ("reconstruct.weight_rate=0", "reconstruct.scale_rate=0")
    settings = (*still, f"reconstruct.unit={unit}", f"reconstruct.encoder={objective}")
    with counting(block) as calls:
        quantized("saq-sam-w4a4", *MANY, *settings)
    assert (calls[False] - calibration) / BLOCKS <= 2 * IMAGES + MOST_JUDGING + 1


def test_a_unit_that_did_not_profit_costs_its_judges_once_more(
    quantized: Quantized, block: type[nn.Module], calibration: int
) -> None:
    ruin = ("reconstruct.weight_rate=1", "reconstruct.scale_rate=1", "reconstruct.iterations=3")
    with counting(block) as calls:
        _, report = quantized("saq-sam-w4a4", *MANY, *ruin)
    assert "nearest" in {unit["kept"] for unit in report.units}
    assert (calls[False] - calibration) / BLOCKS <= 2 * IMAGES + 2 * MOST_JUDGING + 1


@pytest.mark.parametrize(("count", "expected"), [(1, [0]), (3, [0, 1, 2]), (4, [0, 1, 2, 3])])
def test_few_images_all_judge(count: int, expected: list[int]) -> None:
    assert judging_images(count) == expected


def test_judges_are_spread_over_the_set() -> None:
    assert judging_images(32) == [0, 8, 16, 24]
