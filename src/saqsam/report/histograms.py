"""Small histograms of what quantizers see, with the range that their grid covers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from saqsam.report.plots import _figure, _finish, _plain

COLUMNS = 4


def histograms_plot(samples: Mapping[str, Sequence[Tensor]], kept: Mapping[str, tuple[float, float]]) -> str:
    """One panel for each site: counts on a logarithmic axis, the ends of the covered range dashed.

    Args:
        samples: values by site, any number of 1-D tensors.
        kept: smallest and largest value of the grid by site.
    """
    names = [name for name, seen in samples.items() if seen]
    rows = -(-len(names) // COLUMNS)
    figure, first = _figure(1.7 * rows + 0.3)
    first.remove()
    axes = None
    for index, name in enumerate(names):
        axes = figure.add_subplot(rows, COLUMNS, index + 1)
        axes.hist(torch.cat(list(samples[name])).numpy(), bins=60, log=True, color="0.6")
        for end in kept[name]:
            axes.axvline(end, color="tab:blue", linestyle="--", linewidth=1)
        axes.set_title("\n".join(_plain(name)[at : at + 34] for at in range(0, len(name), 34)), fontsize=5)
        axes.tick_params(labelsize=5)
    return _finish(figure, axes, legend=False)
