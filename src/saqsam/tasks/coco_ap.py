"""COCO mask AP by ``faster-coco-eval``, in a process of its own.

Everything that reaches the metric library has been validated before; should its C code fail all the same,
a crash ends that process and becomes an error message here, not the loss of an evaluation of hours.
"""

from __future__ import annotations

import contextlib
import io
import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from saqsam.errors import SaqsamError

if TYPE_CHECKING:
    from saqsam.datasets.instances import InstanceSet

NAMES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")


def coco_truth(dataset: InstanceSet) -> dict[str, Any]:
    """The set as a COCO document with RLE masks, for the metric library."""
    annotations = []
    for image in dataset.images:
        for one in dataset.instances_of(image.id):
            x0, y0, x1, y1 = one.box_xyxy
            code = one.segmentation
            annotations.append(
                {
                    "id": one.id,
                    "image_id": image.id,
                    "category_id": one.category_id,
                    "area": one.area,
                    "iscrowd": int(one.iscrowd),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "segmentation": {"size": list(code["size"]), "counts": code["counts"].decode("ascii")},
                }
            )
    return {
        "images": [{"id": one.id, "height": one.height, "width": one.width} for one in dataset.images],
        "categories": [{"id": key, "name": name} for key, name in dataset.categories.items()],
        "annotations": annotations,
    }


def coco_mask_ap(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The first six COCO figures of ``segm``, at most 100 masks for each image and category.

    Args:
        truth: ``images``, ``categories`` and ``annotations`` in COCO's form, masks as compressed RLE.
        results: COCO results with RLE masks; boxes left out, so that small/medium/large follows the mask.

    Returns:
        ``AP, AP50, AP75, AP_small, AP_medium, AP_large``, 0 to 1; -1 where there is nothing to find.

    Raises:
        SaqsamError: the metric library failed; the message ends with its last words.
    """
    request = json.dumps({"truth": truth, "results": list(results)})
    # -P: files that happen to lie in the working directory must not be imported as modules.
    command = [sys.executable, "-P", "-m", "saqsam.tasks.coco_ap"]
    run = subprocess.run(command, input=request, capture_output=True, text=True, encoding="utf-8")
    if run.returncode != 0:
        raise SaqsamError(f"COCO evaluation failed: {_last_words(run)}. `segment` can still write the masks")
    figures: dict[str, float] = json.loads(run.stdout)
    return figures


def _last_words(run: subprocess.CompletedProcess[str]) -> str:
    if run.returncode < 0:
        return f"its process was ended by {signal.Signals(-run.returncode).name}"
    lines = run.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit code {run.returncode}"


def _figures(truth: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, float]:
    if not results:  # nothing found: no precision at any recall, unless there was nothing to find
        nothing = -1.0 if all(one["iscrowd"] for one in truth["annotations"]) else 0.0
        return dict.fromkeys(NAMES, nothing)
    from faster_coco_eval import COCO, COCOeval_faster

    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO(truth)
        run = COCOeval_faster(ground, ground.loadRes(results), "segm")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return dict(zip(NAMES, map(float, run.stats[:6]), strict=True))


if __name__ == "__main__":
    given = json.load(sys.stdin)
    json.dump(_figures(given["truth"], given["results"]), sys.stdout)
