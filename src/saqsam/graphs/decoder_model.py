"""``OnnxSam`` for many prompts of one image: the decoder's image side runs once."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from torch import Tensor

from saqsam.families.record import Config
from saqsam.graphs.graph import Array
from saqsam.graphs.model import OnnxSam
from saqsam.graphs.session import open_session, run_session
from saqsam.graphs.split import split_graph

_KINDS = {"tensor(float)": 1, "tensor(uint8)": 2, "tensor(int8)": 3, "tensor(int32)": 6, "tensor(int64)": 7}
_YIELDING = {"session.intra_op.allow_spinning": "0"}
"""Each session has threads of its own; those that spin while waiting keep the next session from its cores."""

_NOTHING: Mapping[str, Array] = MappingProxyType({})
_MASK = ("mask_input", "has_mask_input")


class SharedOnnxSam(OnnxSam):
    """The calls of ``SamModel`` on a decoder graph that was cut in three.

    The first part embeds mask prompts and does not run without any. The second computes what the image alone
    decides; its answer for the latest image is kept. The third does the rest, for each group of prompts.

    Args:
        config: the model's configuration.
        encoder: session of the image encoder, or ``None``, as of ``OnnxSam``.
        decoder: graph written by :mod:`saqsam.graphs.decoder`, without masks at the size of the image.
        no_mask: ``(1, C)`` float, the embedding that stands for no mask prompt.
        name: what to call the model in messages.
    """

    def __init__(
        self,
        config: Config,
        encoder: onnxruntime.InferenceSession | None,
        decoder: onnx.ModelProto,
        no_mask: npt.NDArray[Any],
        name: str,
    ) -> None:
        sessions: list[onnxruntime.InferenceSession] = []

        def kinds(part: onnx.ModelProto) -> dict[str, int]:
            sessions.append(open_session(part.SerializeToString(), name, _YIELDING))
            return {one.name: _KINDS[one.type] for one in sessions[-1].get_outputs()}

        rest = split_graph(decoder, _MASK, kinds)[1]
        self.masks = sessions[0]
        self._dense = self.masks.get_outputs()[0].name
        rest = split_graph(rest, (*self.image_names, self._dense), kinds)[1]
        self.image = sessions[1]
        # A few prompts at a time need little memory, again and again.
        prompts = open_session(rest.SerializeToString(), name, _YIELDING, arena=True)
        super().__init__(config, encoder, prompts, name)
        self._nothing = no_mask.astype(np.float32).reshape(1, -1, 1, 1)
        self._sides = [one.name for one in self.image.get_outputs()]
        self._latest: tuple[dict[str, Array], dict[str, Any]] | None = None

    def decode(
        self,
        embedding: Tensor,
        coords: Tensor,
        labels: Tensor,
        mask: Tensor | None = None,
        kept: slice = slice(None),
        beside: Mapping[str, Array] = _NOTHING,
    ) -> tuple[Tensor, ...]:
        """As of ``OnnxSam``."""
        image = {**beside, self.image_names[0]: embedding.contiguous().numpy()}
        side = self._shared(image) if mask is None else self._image_side(image, self._embedded(mask))
        points = {
            "point_coords": coords.float().contiguous().numpy(),
            "point_labels": labels.float().contiguous().numpy(),
        }
        return self._decoded({**points, **side}, kept)

    def _shared(self, image: dict[str, Array]) -> dict[str, Any]:
        """The image side without a mask; embeddings are compared by value, which costs next to nothing."""
        latest = self._latest
        if latest is None or not all(np.array_equal(latest[0][name], x) for name, x in image.items()):
            latest = ({name: x.copy() for name, x in image.items()}, self._image_side(image, self._nothing))
            self._latest = latest
        return latest[1]

    def _image_side(self, image: dict[str, Array], dense: Array) -> dict[str, Any]:
        inputs = {**image, self._dense: dense}
        return dict(zip(self._sides, run_session(self.image, self.name, inputs, self._sides), strict=True))

    def _embedded(self, mask: Tensor) -> npt.NDArray[Any]:
        inputs = {"mask_input": mask.contiguous().numpy(), "has_mask_input": np.ones(1, np.float32)}
        found: npt.NDArray[Any] = run_session(self.masks, self.name, inputs, [self._dense])[0]
        return found
