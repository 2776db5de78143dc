"""Closed-form rounding of a whole unit from one pass through it: cheap enough for a SAM-B on two cores.

Layer by layer, each one sees those before it already rounded in closed form, at the price of running the
unit again for every layer. Here all layers of a unit are seen in a single pass, with nearest rounding before
them, and a second pass, behind the result, tells what it is worth and feeds the next unit. So a unit runs
once for each image in the float model and twice in the quantized one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from saqsam.models.sites import WEIGHT
from saqsam.modules.layers import QuantizedLayer
from saqsam.recipe import Reconstruct
from saqsam.reconstruct.cache import Kept
from saqsam.reconstruct.gptq import Moments, round_by
from saqsam.reconstruct.layerwise import layer_of, rows_seen
from saqsam.reconstruct.loss import local_term
from saqsam.reconstruct.overrides import overridden, unquantized
from saqsam.reconstruct.units import Unit, UnitQuantizers


@dataclass(frozen=True)
class Rounded:
    """What became of a unit.

    Attributes:
        targets: what leaves the float unit, of each image.
        outputs: what leaves the quantized one.
        before: mean local loss with nearest rounding.
        after: with closed-form rounding.
        kept: ``learned``, or ``nearest`` where rounding in closed form made the loss worse.
    """

    targets: Kept
    outputs: Kept
    before: float
    after: float
    kept: str


def round_in_one_pass(
    unit: Unit,
    quantizers: UnitQuantizers,
    quantized: Kept,
    references: Kept,
    settings: Reconstruct,
    seed: int,
    progress: Callable[[int, int], None],
    new: Callable[[], Kept],
) -> Rounded:
    """Put the weights of a unit on their grids, in place.

    Args:
        unit: its weights are still float.
        quantizers: its quantizers, all with ranges.
        quantized: states that enter it in the quantized model, by image.
        references: states that enter it in the float model, used up: each is dropped once it was run, since
            every list of states of a SAM 2 tiny's first stage takes 0.8 GB. Those of the first unit are
            ``quantized`` itself, and stay.
        settings: the recipe's section.
        seed: of the draw of tokens.
        progress: called with passes done and in total.
        new: makes room for states.
    """
    layers = {
        site: layer_of(unit, quantizer) for site, quantizer in quantizers.items() if site.role == WEIGHT
    }
    named = {site.name: layer for site, layer in layers.items()}
    moments = {
        name: Moments.empty(layer.weight[0].numel(), layer.weight.device) for name, layer in named.items()
    }
    targets, outputs, count = new(), new(), len(quantized)
    before = after = 0.0
    for image, state in enumerate(quantized):
        progress(image, 2 * count)
        with overridden(unquantized(quantizers.values())):
            target, wanted = rows_seen(unit, named, references[image], settings.tokens, seed, image)
        output, found = rows_seen(unit, named, state, settings.tokens, seed, image)
        targets.append(target)
        before += float(local_term(unit, output, targets[image]))
        if references is not quantized:
            references.drop(image)
        for name, layer in named.items():
            moments[name].add(layer.effective_input(found[name]), wanted[name])
    begin = {layer: (layer.weight.data, _bias(layer)) for layer in named.values()}
    compensate = settings.compensate in ("all", unit.part)
    for site, layer in layers.items():
        round_by(
            moments.pop(site.name), layer, quantizers[site], damping=settings.damping, compensate=compensate
        )
    for image, state in enumerate(quantized):
        progress(count + image, 2 * count)
        outputs.append(unit.run(state))
        after += float(local_term(unit, outputs[image], targets[image]))
    kept = "learned"
    if after > before:
        kept = "nearest"
        for layer, (weight, bias) in begin.items():
            layer.weight.data = weight
            if layer.bias is not None and bias is not None:
                layer.bias.data = bias
        del outputs
        outputs = new()
        for state in quantized:
            outputs.append(unit.run(state))
    return Rounded(targets, outputs, before / count, after / count, kept)


def _bias(layer: QuantizedLayer) -> Tensor | None:
    return None if layer.bias is None else layer.bias.data
