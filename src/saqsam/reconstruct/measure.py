"""One learning step on one image, tried out before learning begins: how long it takes and what it holds."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from saqsam.errors import OutOfMemory
from saqsam.families.record import Model, State
from saqsam.recipe import Reconstruct
from saqsam.reconstruct.learner import Learner, precision
from saqsam.reconstruct.machine import usable_memory
from saqsam.reconstruct.mixing import Mixing
from saqsam.reconstruct.overrides import overridden
from saqsam.reconstruct.units import Unit, UnitQuantizers

COPIES = 7
"""Numbers held for each learned one: itself, its gradient, Adam's two, where it began; of a weight besides
its floor and its result."""

AT_WORK = 6
"""Tensors of the size of the largest that live beside the graph at the worst moment of a step."""
LARGE, HOLES = 1 << 20, 2.0
"""Bytes of a large tensor, and what the process grows by for each byte of them that a graph holds on a CPU:
glibc does not reuse an aligned block for another of the same size, and leaves holes. On a SAM-B, two images
of a stage grew a process by 1.6 times their tensors at the first step, by 2 after some; smaller tensors leave
no holes that can be seen."""

SHORT = 0.5
"""Seconds; a step that takes less is tried twice."""


@dataclass(frozen=True)
class Tried:
    """One step of one unit.

    Attributes:
        after: the state that left the unit.
        seconds: of the step.
        graph: bytes held for the backward pass, and at work beside it.
        learned: bytes of what is learned and what its optimiser keeps.
    """

    after: State
    seconds: float
    graph: int
    learned: int


def tried(
    model: Model,
    unit: Unit,
    quantizers: UnitQuantizers,
    state: State,
    settings: Reconstruct,
    generator: torch.Generator,
    *,
    view: int | None,
) -> Tried:
    """Run a step of a unit on one image and throw its result away.

    Args:
        model: attached, its weights float.
        unit: to be tried.
        quantizers: its quantizers.
        state: what enters it.
        settings: the recipe's section.
        generator: of coins.
        view: which image it is, if the prompt-aware term is used.

    Raises:
        OutOfMemory: on a CPU, the graph of the step is larger than memory, which the system would notice too
            late to say so.
    """
    learner = Learner(model, quantizers, settings)
    mixing = Mixing(settings.quantized_share, generator) if settings.quantized_share < 1.0 else None
    learned = COPIES * sum(tensor.nbytes for group in learner.groups().values() for tensor in group)
    begin = time.perf_counter()
    after, saved = _step(unit, learner, mixing, state, settings, view=view)
    seconds = time.perf_counter() - begin
    if seconds < SHORT:  # the first call of anything takes longer
        begin = time.perf_counter()
        after, saved = _step(unit, learner, mixing, state, settings, view=view)
        seconds = min(seconds, time.perf_counter() - begin)
    return Tried(after, seconds, saved.bytes + AT_WORK * saved.largest, learned)


def _step(
    unit: Unit,
    learner: Learner,
    mixing: Mixing | None,
    state: State,
    settings: Reconstruct,
    *,
    view: int | None,
) -> tuple[State, _Saved]:
    """One step as ``optimise`` makes it, but for what it is compared with: itself."""
    tensors = [tensor for group in learner.groups().values() for tensor in group]
    saved = _Saved(unit, state[0].device)
    with torch.enable_grad(), learner.learning(), saved_tensors_hooks(saved.see, _same):
        with overridden(learner.overrides(mixing)), precision(settings, state[0].device):
            # Images of a step are joined and mixed, so what enters the unit is a copy.
            after = unit.run(tuple(x.clone() for x in state))
            compared = [x for x in after if x.requires_grad]
            if view is not None:
                compared.append(unit.seen(after, [view]))
        wanted = [x.detach().clone() for x in compared]
        if not learner.learns:
            return tuple(x.detach().float() for x in after), saved
        loss = torch.stack([(x - y).square().mean() for x, y in zip(compared, wanted, strict=True)]).sum()
        if settings.rounding_weight and learner.roundings:
            loss = loss + learner.undecided(settings.beta_start)
        torch.autograd.grad(loss, tensors, allow_unused=True)
    saved.bytes += sum(x.nbytes for x in wanted)
    return tuple(x.detach().float() for x in after), saved


class _Saved:
    """Bytes of different tensors that a unit's graph holds, but for its parameters."""

    def __init__(self, unit: Unit, device: torch.device) -> None:
        there = (parameter for module in unit.modules for parameter in module.parameters())
        self.seen = {tensor.untyped_storage().data_ptr() for tensor in there}
        self.bytes = self.largest = 0
        self.name = unit.name
        on_cpu = device.type == "cpu"
        self.most = usable_memory() if on_cpu else math.inf
        self.holes = HOLES if on_cpu else 1.0

    def see(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.seen:
            self.seen.add(storage.data_ptr())
            size = storage.nbytes()
            self.bytes += round(size * self.holes) if size >= LARGE else size
            self.largest = max(self.largest, size)
            if self.bytes > self.most:
                raise OutOfMemory(
                    f"{self.name}: a learning step on one image holds more than the {self.most / 1e9:.1f} GB "
                    "of this machine's memory that can be planned with; learn smaller units with --set "
                    "reconstruct.unit=block or layer, or take best-closed-form, which learns without steps"
                )
        return tensor


def _same(tensor: Tensor) -> Tensor:
    return tensor
