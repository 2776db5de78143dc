"""How long learning will take and how much memory its activations need, said before it begins."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import Tensor

from saqsam.recipe import Reconstruct
from saqsam.reconstruct.units import State, Unit


@dataclass
class Estimate:
    """Measured on one image, with one forward pass through every unit and its view.

    Attributes:
        settings: the recipe's section.
        images: calibration images.
        forward: seconds of each unit that learns, by name.
        bytes: most activations held at once, of all images together.
    """

    settings: Reconstruct
    images: int
    forward: dict[str, float] = field(default_factory=dict)
    bytes: int = 0

    def measure(self, units: Iterable[Unit], state: State) -> State:
        """Run one image through some units, in order; returns the state after them."""
        for unit in units:
            objective = getattr(self.settings, unit.part)
            begin = time.perf_counter()
            after = unit.run(state)
            view = unit.view(after, [0]) if objective == "par" else None
            if objective != "none":
                self.forward[unit.name] = time.perf_counter() - begin
            # Input on both paths, target, and what the prompt-aware term compares.
            held = 2 * _size(state) + _size(after) + (0 if view is None else view.nbytes)
            self.bytes = max(self.bytes, held * self.images)
            state = after
        return state

    def seconds_left(self, name: str, done: int, seconds: float) -> float:
        """Time for the rest of this unit and all later ones.

        Args:
            name: the unit being learned.
            done: its steps so far, at least 1.
            seconds: what they took.
        """
        steps = self.settings.iterations
        names = list(self.forward)
        later = sum(self.forward[each] for each in names[names.index(name) + 1 :])
        per_step = seconds / done
        return per_step * (steps - done) + per_step * steps * later / max(self.forward[name], 1e-9)


def _size(state: State) -> int:
    return sum(_own_bytes(tensor) for tensor in state)


def _own_bytes(tensor: Tensor) -> int:
    return min(tensor.nbytes, tensor.untyped_storage().nbytes())


def in_words(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
