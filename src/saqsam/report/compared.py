"""What the page shows of each model: figures from its records and from a few compared images."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

from saqsam.models.attach import all_quantizers
from saqsam.models.sites import WEIGHT, quantized_sites
from saqsam.report.curves import curves_plot
from saqsam.report.errors_by_site import Samples, samples
from saqsam.report.histograms import histograms_plot
from saqsam.report.plots import ranges_plot
from saqsam.report.records import clip_curves, range_rows

if TYPE_CHECKING:
    from saqsam.sam import Sam

HISTOGRAMS = 24
"""Sites drawn as histograms: those clipped by attention focus first, then in network order."""


@dataclass(frozen=True)
class Looked:
    """Values on the images looked at: outputs of layers by path, inputs of quantizers by site."""

    outputs: Samples = field(default_factory=dict)
    inputs: Samples = field(default_factory=dict)


def look_at(sam: Sam, run: Callable[[], object]) -> Looked:
    """Run ``run`` once and listen; nothing is heard of models that PyTorch does not compute."""
    if not isinstance(sam.model, nn.Module):
        return Looked()
    paths = [site.path for site in quantized_sites(sam.model) if site.role == WEIGHT]
    layers = {path: sam.model.get_submodule(path) for path in paths}
    if sam.quantization is None:
        return Looked(*samples(layers, {}, run))
    activations = {site.name: one for site, one in all_quantizers(sam.model).items() if site.role != WEIGHT}
    clipped = [clip.site for clip in clip_curves({"records": sam.records}) if clip.site in activations]
    chosen = [*clipped, *(site for site in activations if site not in clipped)][:HISTOGRAMS]
    return Looked(*samples(layers, {site: activations[site] for site in chosen}, run))


def model_part(name: str, sam: Sam, looked: Looked) -> dict[str, Any]:
    """Figures, float parts and recipe of a quantized model, as the template wants them."""
    facts = sam.inspect()
    rows, clips = range_rows(facts), clip_curves(facts)
    figures = [
        {
            "title": "Ranges before and after clipping",
            "caption": "Grey: smallest to largest value in calibration, before clipping. Orange: what "
            "clipping by attention focus kept of it. Blue: what the final grid can represent, after "
            "reconstruction.",
            "uri": ranges_plot(rows),
        }
    ]
    if clips:
        percentiles = [] if sam.quantization is None else list(sam.quantization.clip.percentiles)
        figures.append(
            {
                "title": "Focus IoU over clips",
                "caption": "One line for each clipped site, all other sites as chosen; the dot is the clip "
                "chosen. A dot above its line: the two ends were then refined one by one.",
                "uri": curves_plot(clips, percentiles),
            }
        )
    if any(looked.inputs.values()):
        figures.append(
            {
                "title": "Histograms",
                "caption": f"Values at up to {HISTOGRAMS} sites on the images looked at, about 4,096 of each "
                "tensor, in the tensor's own units; heights are logarithms of counts; dashed: ends of the "
                "final grid.",
                "uri": histograms_plot(looked.inputs, {row.site: row.grid for row in rows}),
            }
        )
    return {
        "name": name,
        "figures": figures,
        "kept": [*facts["kept_float"], *facts["float_steps"]],
        "units": _units(facts["records"].get("units")),
        "recipe": json.dumps(facts["recipe"], indent=1),
    }


def _units(records: Any) -> list[list[str]]:
    """Unit, steps, loss before and after, what was kept; entries that are not so are left out."""
    rows = []
    for one in records if isinstance(records, list) else []:
        if not isinstance(one, dict):
            continue
        losses = [one.get("before"), one.get("after")]
        if all(isinstance(loss, int | float) and math.isfinite(loss) for loss in losses):
            texts = [f"{loss:.4g}" for loss in losses]
            rows.append([str(one.get("unit")), str(one.get("steps")), *texts, str(one.get("kept"))])
    return rows
