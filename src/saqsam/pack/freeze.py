"""The one way from simulated to final: weights onto their grids, the float rest into its storage type."""

from __future__ import annotations

from collections.abc import Callable

import torch

from saqsam.errors import InvariantError
from saqsam.families.record import Model
from saqsam.models.attach import all_quantizers
from saqsam.models.lookup import layer_at
from saqsam.models.sites import WEIGHT
from saqsam.models.stored import stored_tensors
from saqsam.pack.audit import audit
from saqsam.recipe import Recipe


@torch.no_grad()
def freeze(
    model: Model,
    recipe: Recipe,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> None:
    """Make ``model`` exactly what a packed file of it will hold, then audit it.

    Every quantized weight is replaced by its round trip through its integers. Every other parameter is
    rounded to the recipe's ``float_dtype``, so that what is evaluated from here on is what is stored.

    Args:
        model: attached model; every quantizer of it has a range.
        recipe: the recipe the ranges were made with.
        progress: called with the stage's name, steps done and steps in total.

    Raises:
        InvariantError: a site was never observed or is observed still, a float parameter does not fit
            ``float_dtype``, or the audit found a broken promise; the message names the site.
    """
    quantizers = all_quantizers(model)
    for quantizer in quantizers.values():
        quantizer.check_has_range()  # all of them, before any weight is changed for good
    for site, quantizer in quantizers.items():
        if site.role == WEIGHT:
            layer_at(model, site).freeze_weight()
        else:
            quantizer.freeze()
    round_float_rest(model, recipe.float_dtype)
    report = audit(model, recipe, progress)
    if not report.ok:
        failed = report.failures[0]
        raise InvariantError(failed.site, failed.detail)


def round_float_rest(model: Model, dtype_name: str) -> None:
    """Round every parameter and table that is not a quantized weight to ``float16`` or ``float32``, in place.

    Raises:
        InvariantError: a value is too large for float16.
    """
    dtype = {"float16": torch.float16, "float32": torch.float32}[dtype_name]
    quantized = {f"{site.path}.weight" for site in all_quantizers(model) if site.role == WEIGHT}
    for name, parameter in stored_tensors(model).items():
        if name in quantized:
            continue
        rounded = parameter.data.to(dtype).to(parameter.dtype)
        if not bool(torch.isfinite(rounded).all()):
            raise InvariantError(name, f"does not fit {dtype_name}; use `--set float_dtype=float32`")
        parameter.data = rounded
