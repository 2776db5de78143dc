"""What happens when memory runs out while a unit learns: its steps are worked through in smaller parts.

A step's loss is the sum of its parts' shares, and so is its gradient; only the memory of one part is held
at a time. The unit begins again, so its result is the one of a run that took parts of that size from the
beginning: it does not depend on the step at which memory ran out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from saqsam.recipe import Reconstruct
from saqsam.reconstruct.learner import Learner
from saqsam.reconstruct.loss import Problem
from saqsam.reconstruct.optimise import Step, optimise

logger = logging.getLogger("saqsam")


def optimise_within_memory(
    problem: Problem,
    learner: Learner,
    settings: Reconstruct,
    generator: Callable[[], torch.Generator],
    report: Step,
    together: int,
    again: Callable[[], None] = lambda: None,
) -> int:
    """Learn one unit with as many images at once as memory allows; see ``optimise``.

    Args:
        problem, learner, settings, report: as ``optimise`` takes them.
        generator: makes the unit's generator anew.
        together: images worked through together at first, halved when memory runs out.
        again: called before the unit begins again.

    Returns:
        Images worked through together in the end.

    Raises:
        MemoryError or RuntimeError: memory is short even for one image at a time; see ``is_out_of_memory``.
        NumericalError: the loss became NaN or infinite.
    """
    began = [(tensor, tensor.detach().clone()) for group in learner.groups().values() for tensor in group]
    while not _fits(problem, learner, settings, generator(), report, together):
        together = (together + 1) // 2
        logger.warning(
            "%s: out of memory; begun again with %d image(s) of a step at once", problem.unit.name, together
        )
        for tensor, value in began:
            tensor.data.copy_(value)
        again()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return together


def _fits(
    problem: Problem,
    learner: Learner,
    settings: Reconstruct,
    generator: torch.Generator,
    report: Step,
    together: int,
) -> bool:
    """Learn; whether memory was enough. Returning frees what the failed step held."""
    try:
        optimise(problem, learner, settings, generator, report, together)
    except (MemoryError, RuntimeError) as error:
        if together == 1 or not is_out_of_memory(error):
            raise
        return False
    return True


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU.

    PyTorch's allocator for the CPU has no exception of its own, so its words are looked at.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "DefaultCPUAllocator" in text or "not enough memory" in text or "can't allocate memory" in text
    )
