"""The audit: is what will be evaluated exactly what is stored?

Each check is a promise that published code has been seen to break (activations left half unquantized,
weights left between grid points, one value too many on a logarithmic grid). ``freeze`` runs the audit
and refuses to go on; ``saqsam verify`` runs it again on a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from saqsam.families.record import Model
from saqsam.families.registry import decoder_of, encoder_of
from saqsam.models.attach import all_quantizers
from saqsam.models.lookup import image_side, layer_at
from saqsam.models.plan import plan_sites
from saqsam.models.sites import WEIGHT, Site
from saqsam.models.stored import stored_tensors
from saqsam.modules.quantizer import Quantizer, Stage
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
    model: Model,
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
    first = probe.run(check_grids=True)
    progress("audit", 1, 2)
    second = probe.run(check_grids=False)
    progress("audit", 2, 2)
    checks = (
        _check(
            "every planned site has its quantizer", _unplanned(model, recipe, quantizers), len(quantizers)
        ),
        _check("every quantizer is frozen and observes nothing", _unfrozen(quantizers), len(quantizers)),
        _check(
            "every quantized weight equals its own round trip", _off_grid(model, quantizers), len(quantizers)
        ),
        _check("every activation stays on its grid", _violations(first, quantizers), len(first.sums)),
        _check("two forward passes are identical", _different(first, second), len(first.sums)),
        _check("outputs are finite", _not_finite(first), len(first.outputs)),
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


def _unplanned(model: Model, recipe: Recipe, quantizers: dict[Site, Quantizer]) -> Iterator[tuple[str, str]]:
    found = {site.name: quantizer for site, quantizer in quantizers.items()}
    plan = plan_sites(model, recipe)
    for name, choice in plan.items():
        quantizer = found.get(name)
        if quantizer is None:
            yield name, "is in the recipe's plan but has no quantizer"
            continue
        bits = quantizer.grid.bits if quantizer.has_grid else quantizer.bits
        if (bits, quantizer.kind) != (choice.bits, choice.kind):
            present, planned = quantizer.kind.name, choice.kind.name
            yield name, f"has {bits}-bit {present}, planned {choice.bits}-bit {planned}"
        elif quantizer.has_grid and (problem := quantizer.grid.unplanned(choice.groups)):
            yield name, problem
    for name in found:
        if name not in plan:
            yield name, "is quantized but the recipe keeps it float"


def _unfrozen(quantizers: dict[Site, Quantizer]) -> Iterator[tuple[str, str]]:
    for site, quantizer in quantizers.items():
        if quantizer.stage is not Stage.FROZEN:
            yield site.name, f"its quantizer is in stage {quantizer.stage.value}, not frozen"
        elif quantizer.observer is not None:
            yield site.name, "an observer is still attached"
        elif problem := quantizer.grid.check(quantizer.channels):
            yield site.name, problem


def _off_grid(model: Model, quantizers: dict[Site, Quantizer]) -> Iterator[tuple[str, str]]:
    for site, quantizer in quantizers.items():
        if site.role != WEIGHT or not quantizer.has_grid:
            continue
        weight = layer_at(model, site).weight
        difference = float((quantizer.grid.round_trip(weight) - weight).abs().max())
        if difference != 0.0:
            yield site.name, f"a weight is {difference:.3g} away from its {quantizer.bits}-bit grid"


def _violations(seen: _Pass, quantizers: dict[Site, Quantizer]) -> Iterator[tuple[str, str]]:
    yield from seen.violations.items()
    for site in quantizers:
        if site.role != WEIGHT and site.name not in seen.sums:
            yield site.name, "its quantizer was never called in a forward pass"


def _different(first: _Pass, second: _Pass) -> Iterator[tuple[str, str]]:
    """Sites in the order of the forward pass, so that the first one named is where randomness comes in."""
    problem = "two passes over the same input differ: something is random here or before it"
    for name, sums in first.sums.items():
        if not _equal(torch.tensor(sums), torch.tensor(second.sums.get(name, []))):
            yield name, problem
    for name, tensor in first.outputs.items():
        if not _equal(tensor, second.outputs[name]):
            yield name, problem


def _equal(one: Tensor, other: Tensor) -> bool:
    """Bit for bit, with NaN equal to itself: that an output is not finite is another check's message."""
    return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())


def _not_finite(seen: _Pass) -> Iterator[tuple[str, str]]:
    for name, tensor in seen.outputs.items():
        if not bool(torch.isfinite(tensor).all()):
            yield name, "the output on the probe image holds NaN or infinity"


def _unrepresentable(
    model: Model, recipe: Recipe, quantizers: dict[Site, Quantizer]
) -> Iterator[tuple[str, str]]:
    quantized = {f"{site.path}.weight" for site in quantizers if site.role == WEIGHT}
    dtype = getattr(torch, recipe.float_dtype)
    for name, parameter in stored_tensors(model).items():
        if name not in quantized and not torch.equal(parameter, parameter.to(dtype).to(parameter.dtype)):
            yield name, f"changes when stored as {recipe.float_dtype}"


@dataclass
class _Pass:
    """What one forward pass showed.

    Attributes:
        outputs: the model's outputs by name.
        sums: for each activation site, in the order of the pass, the sum of every output of its quantizer.
        violations: what is wrong with the values that a quantizer let through, by site.
    """

    outputs: dict[str, Tensor] = field(default_factory=dict)
    sums: dict[str, list[float]] = field(default_factory=dict)
    violations: dict[str, str] = field(default_factory=dict)


class _Probe:
    """A fixed noise image and two boxes, run through the whole model."""

    def __init__(self, model: Model) -> None:
        size = image_side(model)
        generator = torch.Generator().manual_seed(_SEED)
        self.model = model
        self.pixels = torch.randn((1, 3, size, size), generator=generator).to(model.device)
        corners = torch.rand((1, _PROBE_PROMPTS, 2, 2), generator=generator).sort(dim=2).values
        self.boxes = (corners * (size - 1)).flatten(2).to(model.device)

    def run(self, *, check_grids: bool) -> _Pass:
        """One forward pass, watched; hooks never outlive it."""
        seen = _Pass()
        handles = []
        for site, quantizer in all_quantizers(self.model).items():
            if site.role != WEIGHT:
                hook = _watch(site.name, quantizer, seen, check_grids)
                handles.append(quantizer.register_forward_hook(hook))
        try:
            embedding = encoder_of(self.model).plain(self.pixels)
            found = decoder_of(self.model).answer(embedding, input_boxes=self.boxes)
        finally:
            for handle in handles:
                handle.remove()
        seen.outputs = {"pred_masks": found.masks, "iou_scores": found.scores}
        return seen


def _watch(
    name: str, quantizer: Quantizer, seen: _Pass, check_grids: bool
) -> Callable[[nn.Module, object, Tensor], None]:
    def look(module: nn.Module, inputs: object, output: Tensor) -> None:
        seen.sums.setdefault(name, []).append(float(output.sum(dtype=torch.float64)))
        problem = off_grid(quantizer, output) if check_grids else ""
        if problem:
            seen.violations.setdefault(name, problem)

    return look


def off_grid(quantizer: Quantizer, output: Tensor) -> str:
    """What is wrong with a quantizer's output, or nothing: each value must be its own round trip, and
    there may be at most ``2**bits`` distinct ones (on a grouped grid: in each group of channels)."""
    if not quantizer.has_grid:
        return "it has no grid"
    grid = quantizer.grid
    again = grid.round_trip(output)  # not the quantizer's own ``forward``, which may be what is wrong
    if not torch.equal(again, output):
        share = float((again != output).float().mean())
        return f"{share:.1%} of its values lie off the {grid.bits}-bit grid"
    for part in grid.parts(output):
        distinct = part.flatten()[:: max(1, output.numel() // _COUNTED)].unique().numel()
        if distinct > 2**grid.bits:
            return f"{distinct} distinct values, a {grid.bits}-bit grid has {2**grid.bits}"
    return ""
