"""Whether learning helped a unit: its loss before and after, on the same few images.

Running a unit on all calibration images just to know its loss would double the price of every unit. A few
images, spread evenly over the set, tell whether learning helped; what the unit gives for them afterwards is
carried on, so only the measurement before costs passes of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from saqsam.families.record import State
from saqsam.reconstruct.loss import Problem, total

MOST_JUDGING = 4
"""At most so many calibration images decide."""
LEARNED, NEAREST = "learned", "nearest"


@dataclass(frozen=True)
class UnitRecord:
    """What became of one unit.

    Attributes:
        unit: its name.
        steps: optimisation steps.
        before: mean loss over the judging images with nearest rounding and calibrated scales.
        after: the same with what was learned, weights on their grids.
        kept: ``learned``, or ``nearest`` where learning made the loss worse.
        at_once: images of a step worked through together, fewer than its batch where more do not fit; a
            resumed run goes on with it, since sums depend on it in their last digits. 0 if not recorded.
        judged: number of calibration images on which both losses were measured; 0 if not recorded.
    """

    unit: str
    steps: int
    before: float
    after: float
    kept: str
    at_once: int = 0
    judged: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def judging_images(count: int) -> list[int]:
    """Which of ``count`` calibration images decide: at most ``MOST_JUDGING``, spread evenly."""
    few = min(MOST_JUDGING, count)
    return [index * count // few for index in range(few)]


@torch.no_grad()
def outputs_of(problem: Problem, images: list[int]) -> dict[int, State]:
    """What leaves the unit as it stands now, without mixing, by image."""
    return {image: problem.unit.run(problem.inputs[image]) for image in images}


@torch.no_grad()
def loss_of(problem: Problem, outputs: Mapping[int, State]) -> float:
    """Mean loss of outputs by image."""
    losses = [float(total(problem.terms(found, [image]))) for image, found in outputs.items()]
    return sum(losses) / len(losses)
