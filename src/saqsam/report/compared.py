"""What the page shows of each model: figures from its records and from a few compared images."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from saqsam.models.attach import all_quantizers
from saqsam.models.sites import WEIGHT
from saqsam.report.errors_by_site import input_samples, layer_samples, relative_errors
from saqsam.report.histograms import histograms_plot
from saqsam.report.plots import curves_plot, errors_plot, ranges_plot

if TYPE_CHECKING:
    from saqsam.sam import Sam

HISTOGRAMS = 24
"""Sites drawn as histograms: those clipped by attention focus first, then in network order."""


def model_part(name: str, sam: Sam, run: Callable[[], object]) -> dict[str, Any]:
    """Figures, float parts and recipe of a quantized model; ``run`` segments the images looked at."""
    facts = sam.inspect()
    seen, clips = facts["records"].get("ranges", {}), facts["records"].get("clips", [])
    kept = {f"{one['path']}:{one['role']}": (one["min"], one["max"]) for one in facts["sites"]}
    before = {one["site"]: (one["low"], one["high"]) for one in clips}
    before |= {site: (one["low"], one["high"]) for site, one in seen.items() if site not in before}
    rows = [{"site": site, "seen": before[site], "kept": kept[site]} for site in kept if site in before]
    figures = []
    if rows:
        text = "Grey: smallest to largest value in calibration. Blue: what the grid can represent."
        figures.append({"title": "Ranges", "caption": text, "uri": ranges_plot(rows)})
    if clips:
        text = "One line for each clipped site; the dot is the best candidate."
        figures.append({"title": "Focus IoU over clips", "caption": text, "uri": curves_plot(clips)})
    quantizers = {s.name: q for s, q in all_quantizers(sam.model).items() if s.role != WEIGHT}
    clipped = [one["site"] for one in clips]
    chosen = [*clipped, *(site for site in quantizers if site not in clipped)][:HISTOGRAMS]
    samples = input_samples({site: quantizers[site] for site in chosen if site in quantizers}, run)
    if any(samples.values()):
        text = (
            f"Values at up to {HISTOGRAMS} sites on the images looked at, counts logarithmic; dashed: ends "
            "of the grid."
        )
        figures.append({"title": "Histograms", "caption": text, "uri": histograms_plot(samples, kept)})
    return {
        "name": name,
        "figures": figures,
        "kept": facts["kept_float"],
        "recipe": json.dumps(facts["recipe"], indent=1),
    }


def errors_figure(judge: Sam, models: Mapping[str, Sam], run: Callable[[Sam], object]) -> str | None:
    """Error of every layer of the quantized models against ``judge``."""
    errors = {}
    for name, sam in models.items():
        paths = [site.path for site in all_quantizers(sam.model) if site.role == WEIGHT]
        reference = layer_samples(judge.model, paths, lambda: run(judge))
        other = layer_samples(sam.model, paths, lambda sam=sam: run(sam))  # type: ignore[misc]
        errors[name] = relative_errors(reference, other)
    return errors_plot(errors) if any(errors.values()) else None
