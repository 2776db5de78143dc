"""What can be chosen about everything mode, under the names of segment-anything's mask generator."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from saqsam.errors import UsageError

_SHARES = ("pred_iou_thresh", "stability_score_thresh", "box_nms_thresh", "crop_nms_thresh")
_COUNTS = {
    "points_per_side": 1,
    "points_per_batch": 1,
    "crop_n_layers": 0,
    "crop_n_points_downscale_factor": 1,
    "min_mask_region_area": 0,
}
_MOST_LAYERS = 4
_MOST_POINTS = 1024


@dataclass(frozen=True)
class EverythingOptions:
    """Settings of everything mode; the defaults are the published ones.

    Attributes:
        points_per_side: the whole image gets this many clicks squared.
        points_per_batch: most clicks decoded together; changes memory and speed only.
        pred_iou_thresh: keep masks whose predicted IoU is above this.
        stability_score_thresh: keep masks whose stability is at least this.
        stability_score_offset: stability is the IoU of the mask cut this much above and below logit 0.
        box_nms_thresh: of two masks of one crop whose boxes overlap more, the better predicted one stays.
        crop_n_layers: also look at 2^i x 2^i overlapping crops for i = 1 ... this.
        crop_nms_thresh: of two masks of different crops whose boxes overlap more, the one from the smaller
            crop stays.
        crop_overlap_ratio: overlap of crops, in shares of the image's shorter side (halved for each layer).
        crop_n_points_downscale_factor: crops of layer i get ``points_per_side`` divided by this to the i.
        min_mask_region_area: fill holes and drop islands of fewer pixels; 0 leaves masks as they are.
        point_grids: ``crop_n_layers + 1`` arrays ``(P, 2)`` of x, y from 0 to 1, in place of
            ``points_per_side`` and its divisor.

    Raises:
        UsageError: a value of the wrong kind or out of its range; thresholds lie from 0 to 1.
    """

    points_per_side: int = 32
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    min_mask_region_area: int = 0
    point_grids: tuple[npt.NDArray[np.float64], ...] | None = None

    def __post_init__(self) -> None:
        for name, least in _COUNTS.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UsageError(f"{name}: give a whole number of at least {least}, not {value!r}")
        for name in (*_SHARES, "stability_score_offset", "crop_overlap_ratio"):
            value = getattr(self, name)
            if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
                raise UsageError(f"{name}: give a number, not {value!r}")
        for name in _SHARES:
            value = getattr(self, name)
            if not 0 <= value <= 1:
                hint = f"{value / 100:g} for {value:g} %, say" if 1 < value <= 100 else "0.7, say"
                raise UsageError(f"{name}: {value:g} is out of its range; give a share from 0 to 1, {hint}")
        if self.stability_score_offset < 0:
            raise UsageError(
                f"stability_score_offset: {self.stability_score_offset} is below 0; give 0 or more"
            )
        if not 0 <= self.crop_overlap_ratio < 1:
            raise UsageError(
                f"crop_overlap_ratio: {self.crop_overlap_ratio} is out of its range; give 0 to below 1"
            )
        if self.points_per_side > _MOST_POINTS or self.crop_n_layers > _MOST_LAYERS:
            raise UsageError(
                f"points_per_side {self.points_per_side} and crop_n_layers {self.crop_n_layers}: "
                f"give at most {_MOST_POINTS} and {_MOST_LAYERS}"
            )
        if self.point_grids is not None:
            object.__setattr__(self, "point_grids", _checked_grids(self.point_grids, self.crop_n_layers))


def options_from(settings: Mapping[str, Any]) -> EverythingOptions:
    """Options from keyword arguments.

    Raises:
        UsageError: there is no option of that name; the message names the nearest one.
    """
    names = [one.name for one in fields(EverythingOptions)]
    for name in settings:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(names)}"
            raise UsageError(f"everything mode has no option {name!r}{hint}")
    return EverythingOptions(**settings)


def _checked_grids(grids: Any, layers: int) -> tuple[npt.NDArray[np.float64], ...]:
    if not isinstance(grids, list | tuple) or len(grids) != layers + 1:
        raise UsageError(f"point_grids: expected {layers + 1} arrays, one for each crop layer")
    checked = []
    for index, grid in enumerate(grids):
        try:
            table = np.asarray(grid, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"point_grids: grid {index} holds something that is no number; give numbers from 0 to 1"
            ) from error
        if table.ndim != 2 or table.shape[1] != 2 or not len(table):
            raise UsageError(f"point_grids: grid {index} has shape {table.shape}, expected (P, 2)")
        if not ((table >= 0) & (table <= 1)).all():
            raise UsageError(f"point_grids: grid {index} has a coordinate that is not from 0 to 1")
        checked.append(table)
    return tuple(checked)
