"""The protocol of X-AnyLabeling's remote servers: its clicks and boxes, answered by a saqsam model.

``GET /health``, ``GET /v1/models``, ``GET /v1/models/ID/info`` and ``POST /v1/predict``, as
https://github.com/CVHub520/X-AnyLabeling-Server documents them. Errors are its ``success: false``, but come
with a status of 400 and more: the tool looks at nothing else, and shows the status with its reason.
"""

from __future__ import annotations

import base64
import binascii
import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from saqsam.errors import ImageError, PromptError, SaqsamError, UsageError
from saqsam.prompts.prompts import checked_prompts
from saqsam.serve.answers import Decoder
from saqsam.serve.encodings import FAILED, Encodings, QueueFull

PREFIX = "v1/"
_LABEL = "AUTOLABEL_OBJECT"
"""What the tool replaces by the name that one gives to a finished object."""
_WIDGETS = (
    "button_add_point",
    "button_remove_point",
    "button_add_rect",
    "button_clear",
    "button_finish_object",
    "mask_fineness_slider",
    "mask_fineness_value_label",
)
_FINENESS = 0.001
_SMALLEST = 0.01
"""Parts of a mask below this share of its largest are left out of its outlines."""


class AnyLabeling:
    """Answers to its requests.

    Args:
        encodings: images and their embeddings.
        decoder: answers prompts.
        names: of the models.
    """

    def __init__(self, encodings: Encodings, decoder: Decoder, names: tuple[str, ...]) -> None:
        self._encodings, self._decoder, self._names = encodings, decoder, names

    def get(self, path: str) -> dict[str, Any] | None:
        """Answer a GET; ``None`` where the protocol knows no such path."""
        models = {name: self._info(name) for name in self._names}
        if path == "health":
            now = datetime.now(UTC).isoformat()
            return {"status": "healthy", "models_loaded": len(models), "timestamp": now}
        if path == f"{PREFIX}models":
            return {"success": True, "data": models}
        name = path.removeprefix(f"{PREFIX}models/").removesuffix("/info")
        if path == f"{PREFIX}models/{name}/info":
            if name in models:
                return {"success": True, "data": {"model_id": name, **models[name]}}
            return _failure("MODEL_NOT_FOUND", f"Model '{name}' is not served here")
        return None

    @staticmethod
    def _info(name: str) -> dict[str, Any]:
        widgets = [{"name": one, "value": 10 if one == "mask_fineness_slider" else None} for one in _WIDGETS]
        # The tool has room for the beginning of the name.
        shown = {"display_name": f"{name} (saqsam)", "widgets": widgets, "params": {}}
        return {**shown, "batch_processing_mode": None}

    def predict(self, body: bytes) -> tuple[int, dict[str, Any]]:
        """Outlines of what the marks on an image mean, with the status of the answer."""
        try:
            asked = json.loads(body)
            name, image, params = asked["model"], asked["image"], asked.get("params") or {}
            data = base64.b64decode(image.rpartition(",")[2], validate=True)
            marks = list(params.get("marks") or [])
        except (ValueError, KeyError, TypeError, AttributeError, binascii.Error):
            return 400, _failure("INVALID_IMAGE", "give a JSON object with model, image (base64) and params")
        if name not in self._names:
            offered = ", ".join(self._names)
            return 404, _failure("MODEL_NOT_FOUND", f"model '{name}' is not served here; choose {offered}")
        try:
            shapes = self._shapes(name, data, marks, params)
        except ImageError as error:
            return 422, _failure("INVALID_IMAGE", str(error))
        except QueueFull as error:
            return 503, _failure("INFERENCE_ERROR", str(error))
        except SaqsamError as error:
            return 422, _failure("INFERENCE_ERROR", str(error))
        return 200, {"success": True, "data": {"shapes": shapes, "description": ""}}

    def _shapes(
        self, name: str, data: bytes, marks: list[Any], params: dict[str, Any]
    ) -> list[dict[str, Any]]:
        if not marks:
            return []
        box, points, labels = read_marks(marks)
        encoding = self._encodings.submit(self._names.index(name), data)
        encoding.done.wait()
        if encoding.state == FAILED:
            raise UsageError(f"{encoding.error}; give the image again")
        height, width = encoding.frame.original
        prompts = checked_prompts(
            width,
            height,
            boxes=None if box is None else [box],
            points=[points] if points else None,
            labels=[labels] if points else None,
            where="marks",
        ).prompts
        ambiguous = box is None and len(points) == 1
        answer = self._decoder.decode(encoding, prompts, (1, 2, 3) if ambiguous else (0,))
        best = int(answer.scores[0].argmax())
        mask = answer.masks(slice(best, best + 1))[0, 0]
        fineness = params.get("epsilon_factor", _FINENESS)
        fineness = float(fineness) if isinstance(fineness, int | float) else _FINENESS
        score = float(answer.scores[0, best])
        return [_shape(outline, score) for outline in outlines(mask, fineness)]


def read_marks(
    marks: list[Any],
) -> tuple[list[float] | None, list[list[float]], list[int]]:
    """The box, clicks and labels of one object; of several boxes the last one is meant.

    Raises:
        PromptError: a mark that is neither, or a box beside the object, which SAM does not know.
    """
    box: list[float] | None = None
    points: list[list[float]] = []
    labels: list[int] = []
    for mark in marks:
        kind, data, label = (
            (mark.get(key) for key in ("type", "data", "label")) if isinstance(mark, dict) else ("",) * 3
        )
        if kind == "point" and isinstance(data, list) and len(data) == 2:
            points.append(data)
            labels.append(0 if label == 0 else 1)
        elif kind == "rectangle" and isinstance(data, list) and len(data) == 4 and label != 0:
            box = [min(data[0], data[2]), min(data[1], data[3]), max(data[0], data[2]), max(data[1], data[3])]
        else:
            raise PromptError("marks: expected points (x, y) and rectangles (x0, y0, x1, y1) on the object")
    return box, points, labels


def outlines(mask: npt.NDArray[np.bool_], fineness: float) -> list[list[list[float]]]:
    """Closed outer outlines ``x, y`` of a mask's parts, the largest first; holes are not told.

    Args:
        mask: ``(H, W)``.
        fineness: how far, as a share of an outline's length, it may be from the pixels' edges.
    """
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]
    merged = shapely.union_all(shapely.box(starts, rows, ends, rows + 1))
    parts = [one for one in shapely.get_parts(merged) if one.area > 0]
    parts.sort(key=lambda one: -one.area)
    kept = [one for one in parts if one.area >= _SMALLEST * parts[0].area]
    rings = [shapely.Polygon(one.exterior) for one in kept]
    simple = [one.simplify(max(0.0, fineness) * one.length) for one in rings]
    return [[[float(x), float(y)] for x, y in one.exterior.coords] for one in simple]


def _shape(points: list[list[float]], score: float) -> dict[str, Any]:
    return {
        "label": _LABEL,
        "shape_type": "polygon",
        "points": points,
        "score": score,
        "attributes": {},
        "description": None,
        "difficult": False,
        "direction": 0,
        "flags": None,
        "group_id": None,
        "kie_linking": [],
    }


def _failure(code: str, message: str) -> dict[str, Any]:
    return {"success": False, "error": {"code": code, "message": message}}
