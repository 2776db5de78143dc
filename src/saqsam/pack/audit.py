"""The audit: is what will be evaluated exactly what is stored?

Each check is a promise that published code has been seen to break (activations left half unquantized,
weights left between grid points, one value too many on a logarithmic grid). ``freeze`` runs the audit
and refuses to go on; ``saqsam verify`` runs it again on a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import SamModel

from saqsam.grids.affine import affine_round_trip
from saqsam.grids.log2 import log2_round_trip
from saqsam.models.attach import all_quantizers
from saqsam.models.plan import plan_sites
from saqsam.models.sites import WEIGHT, Site
from saqsam.quantizer import LOG2, Quantizer, Stage
from saqsam.recipe import Recipe

_COUNTED = 1 << 16
"""Values of an activation whose distinct numbers are counted; grid membership is checked for all."""
_SEED = 20260
_PROBE_PROMPTS = 2


@dataclass(frozen=True)
class Check:
    """One promise, and whether it holds.

    Attributes:
        name: what was checked, as a short sentence.
        ok: whether it holds everywhere.
        site: the first site where it does not hold, else empty.
        detail: what was found there, else how much was checked.
    """

    name: str
    ok: bool
    site: str
    detail: str


@dataclass(frozen=True)
class AuditReport:
    """All checks in order."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether every promise holds."""
        return all(check.ok for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if not check.ok)


@torch.no_grad()
def audit(
    model: SamModel,
    recipe: Recipe,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> AuditReport:
    """Check every promise on a frozen model.

    Args:
        model: attached and frozen.
        recipe: what the model claims to be.
        progress: called with the stage's name, steps done and steps in total.

    Returns:
        A report; nothing is raised, so that all failures can be shown.
    """
    quantizers = all_quantizers(model)
    probe = _Probe(model)
    progress("audit", 0, 2)
    first, violations = probe.run(watch=True)
    progress("audit", 1, 2)
    second, _ = probe.run(watch=False)
    progress("audit", 2, 2)
    checks = (
        _check(
            "every planned site has its quantizer", _unplanned(model, recipe, quantizers), len(quantizers)
        ),
        _check("every quantizer is frozen and observes nothing", _unfrozen(quantizers), len(quantizers)),
        _check(
            "every quantized weight equals its own round trip", _off_grid(model, quantizers), len(quantizers)
        ),
        _check("every activation stays on its grid", iter(violations), probe.watched),
        _check("two forward passes are identical", _different(first, second), len(first)),
        _check("outputs are finite", _not_finite(first), len(first)),
        _check("the float rest fits its storage type", _unrepresentable(model, recipe, quantizers), 1),
    )
    return AuditReport(checks)


def _check(name: str, failures: Iterator[tuple[str, str]], looked_at: int) -> Check:
    found = list(failures)
    if not found:
        return Check(name, True, "", f"{looked_at} checked")
    site, detail = found[0]
    more = f" (and {len(found) - 1} more sites)" if len(found) > 1 else ""
    return Check(name, False, site, detail + more)


def _unplanned(
    model: SamModel, recipe: Recipe, quantizers: dict[Site, Quantizer]
) -> Iterator[tuple[str, str]]:
    found = {site.name: quantizer for site, quantizer in quantizers.items()}
    plan = plan_sites(model, recipe)
    for name, choice in plan.items():
        quantizer = found.get(name)
        if quantizer is None:
            yield name, "is in the recipe's plan but has no quantizer"
        elif (quantizer.bits, quantizer.grid) != (choice.bits, choice.grid):
            yield name, f"has {quantizer.bits}-bit {quantizer.grid}, planned {choice.bits}-bit {choice.grid}"
    for name in found:
        if name not in plan:
            yield name, "is quantized but the recipe keeps it float"


def _unfrozen(quantizers: dict[Site, Quantizer]) -> Iterator[tuple[str, str]]:
    for site, quantizer in quantizers.items():
        if quantizer.stage is not Stage.FROZEN:
            yield site.name, f"its quantizer is in stage {quantizer.stage.value}, not frozen"
        elif quantizer.observer is not None:
            yield site.name, "an observer is still attached"
        elif not bool(torch.isfinite(quantizer.scale).all()) or not bool((quantizer.scale > 0).all()):
            yield site.name, "its scale is not a finite positive number"


def _off_grid(model: SamModel, quantizers: dict[Site, Quantizer]) -> Iterator[tuple[str, str]]:
    for site, quantizer in quantizers.items():
        if site.role != WEIGHT:
            continue
        weight = model.get_submodule(site.path).weight
        scale, zero_point = quantizer.parameters_for(weight)
        difference = float(
            (affine_round_trip(weight, scale, zero_point, quantizer.bits) - weight).abs().max()
        )
        if difference != 0.0:
            yield site.name, f"a weight is {difference:.3g} away from its {quantizer.bits}-bit grid"


def _different(first: dict[str, Tensor], second: dict[str, Tensor]) -> Iterator[tuple[str, str]]:
    for name, tensor in first.items():
        if not torch.equal(tensor, second[name]):
            yield name, "two passes over the same input differ: something in the model is random"


def _not_finite(outputs: dict[str, Tensor]) -> Iterator[tuple[str, str]]:
    for name, tensor in outputs.items():
        if not bool(torch.isfinite(tensor).all()):
            yield name, "the output on the probe image holds NaN or infinity"


def _unrepresentable(
    model: SamModel, recipe: Recipe, quantizers: dict[Site, Quantizer]
) -> Iterator[tuple[str, str]]:
    quantized = {f"{site.path}.weight" for site in quantizers if site.role == WEIGHT}
    dtype = getattr(torch, recipe.float_dtype)
    for name, parameter in model.named_parameters():
        if name not in quantized and not torch.equal(parameter, parameter.to(dtype).to(parameter.dtype)):
            yield name, f"changes when stored as {recipe.float_dtype}"


class _Probe:
    """A fixed noise image and two boxes, run through the whole model."""

    def __init__(self, model: SamModel) -> None:
        size = int(model.config.vision_config.image_size)
        generator = torch.Generator().manual_seed(_SEED)
        self.model = model
        self.pixels = torch.randn((1, 3, size, size), generator=generator).to(model.device)
        corners = torch.rand((1, _PROBE_PROMPTS, 2, 2), generator=generator).sort(dim=2).values
        self.boxes = (corners * (size - 1)).flatten(2).to(model.device)
        self.watched = 0

    def run(self, *, watch: bool) -> tuple[dict[str, Tensor], list[tuple[str, str]]]:
        """Outputs by name, and the sites whose quantizer let a value through that is on no grid point."""
        violations: dict[str, str] = {}
        with _watching(self.model, violations) if watch else _nothing() as seen:
            output = self.model(pixel_values=self.pixels, input_boxes=self.boxes, multimask_output=False)
        self.watched = max(self.watched, len(seen))
        activations = {site.name for site in all_quantizers(self.model) if site.role != WEIGHT}
        for name in sorted(activations - seen) if watch else ():
            violations[name] = "its quantizer was never called in a forward pass"
        outputs = {"pred_masks": output.pred_masks, "iou_scores": output.iou_scores}
        return outputs, list(violations.items())


@contextmanager
def _nothing() -> Iterator[set[str]]:
    yield set()


@contextmanager
def _watching(model: SamModel, violations: dict[str, str]) -> Iterator[set[str]]:
    """Look at what every activation quantizer returns; yields the names of the sites that were called."""
    seen: set[str] = set()
    handles = []
    for site, quantizer in all_quantizers(model).items():
        if site.role == WEIGHT:
            continue

        def look(module: nn.Module, inputs: object, output: Tensor, name: str = site.name) -> None:
            assert isinstance(module, Quantizer)
            seen.add(name)
            problem = off_grid(module, output)
            if problem:
                violations.setdefault(name, problem)

        handles.append(quantizer.register_forward_hook(look))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def off_grid(quantizer: Quantizer, output: Tensor) -> str:
    """What is wrong with a quantizer's output, or nothing: each value must be its own round trip, and
    there may be at most ``2**bits`` distinct ones."""
    if quantizer.grid == LOG2:
        again = log2_round_trip(output, quantizer.scale, quantizer.tau, quantizer.bits)
    else:
        again = affine_round_trip(output, quantizer.scale, quantizer.zero_point, quantizer.bits)
    if not torch.equal(again, output):
        return f"{float((again != output).float().mean()):.1%} of its values lie off the {quantizer.bits}-bit grid"
    distinct = output.flatten()[:: max(1, output.numel() // _COUNTED)].unique().numel()
    if distinct > 2**quantizer.bits:
        return f"{distinct} distinct values, a {quantizer.bits}-bit grid has {2**quantizer.bits}"
    return ""
