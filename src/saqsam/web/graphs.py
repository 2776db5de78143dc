"""The three graphs of a page: the encoder, and the decoder cut into the image's side and the prompts'."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper
from torch import Tensor

from saqsam.errors import PromptError, UsageError
from saqsam.families.record import Config
from saqsam.families.registry import family_of_config
from saqsam.families.sam_names import SamNames
from saqsam.graphs.build import OPSETS, build_graphs
from saqsam.graphs.graph import Array, Graph
from saqsam.graphs.model import OnnxSam
from saqsam.graphs.portable import Portable
from saqsam.graphs.sam2_model import OnnxSam2
from saqsam.graphs.session import open_session, run_session
from saqsam.graphs.source import Source
from saqsam.graphs.split import split_graph
from saqsam.graphs.writers import writers_for, writers_of
from saqsam.images.frame import Preprocessing
from saqsam.pack.file import PackedModel
from saqsam.web.compact import Compact

_KINDS = {"tensor(float)": 1, "tensor(uint8)": 2, "tensor(int8)": 3, "tensor(int32)": 6, "tensor(int64)": 7}
_MASK = ("mask_input", "has_mask_input")
_ANSWERS = ("masks", "scores", "objects", "single")
"""What a page calls the decoder's answers."""
_SERVE = "'saqsam serve' shows this model in the same page, computed on this machine"
_NOTHING: Mapping[str, Array] = MappingProxyType({})


@dataclass(frozen=True)
class WebGraphs:
    """Serialised ONNX models, as they are shipped; tensors are called as in the graphs of their family.

    Attributes:
        encoder: the image's pixels ``(1, 3, S, S)`` to its embedding, of one tensor or several.
        image: the embedding to whatever ``prompts`` needs of it, by name; once for an image.
        prompts: that, ``point_coords (B, N, 2)``, ``point_labels (B, N)`` and ``mask_slots (K,)`` to masks
            ``(B, K, 4g, 4g)``, ``iou_predictions (B, M)``, and what else the family says.
    """

    encoder: bytes
    image: bytes
    prompts: bytes

    def files(self) -> dict[str, bytes]:
        """Contents by the names they have in a folder."""
        return {
            "encoder.onnx": self.encoder,
            "decoder-image.onnx": self.image,
            "decoder-prompts.onnx": self.prompts,
        }


def maker_for(packed: PackedModel) -> type[Portable]:
    """Arithmetic of a model's graphs: integer products where it has integers, else standard operators."""
    return Compact if packed.weights else Portable


def web_graphs(packed: PackedModel) -> WebGraphs:
    """Build and cut the graphs of a model.

    Raises:
        UsageError: a part of the model is not supported in graphs.
    """
    image_names = writers_of(packed).model.image_names

    def arithmetic(graph: Graph, source: Source) -> Portable:
        return maker_for(packed)(graph, source)

    encoder, decoder = build_graphs(packed, OPSETS[0], arithmetic, full_size=False)
    embedded, rest = split_graph(decoder, _MASK, _kinds)
    dense = embedded.graph.output[0].name
    image, prompts = split_graph(rest, (*image_names, dense), _kinds)
    # A page has no mask prompts: what stands for none is a constant.
    nothing = packed.rest[SamNames.no_mask].numpy().astype(np.float32).reshape(1, -1, 1, 1)
    kept = [one for one in image.graph.input if one.name != dense]
    del image.graph.input[:]
    image.graph.input.extend(kept)
    image.graph.initializer.append(numpy_helper.from_array(nothing, dense))
    return WebGraphs(*(one.SerializeToString() for one in (encoder, image, prompts)))


def refuse_preprocessing(how: Preprocessing) -> None:
    """Refuse a model whose images the page's own code does not prepare.

    Raises:
        UsageError: it is one; the message says what shows it.
    """
    if how != Preprocessing(how.side, how.pads, how.mean, how.std):
        raise UsageError(f"preprocessing: a page prepares images as published models want them; {_SERVE}")


def described(packed: PackedModel) -> dict[str, Any]:
    """What a page must know of a model's graphs, for its manifest: nothing where they are the first SAM's.

    Returns:
        ``tensors``, names by what they hold: the encoder's ``pixels``, and of the decoder ``masks``,
        ``scores``, and where it has them ``objects``, logits of there being an object, and ``single``, the
        number of the mask that is the single answer. ``ends_prompts``: whether clicks are to come without
        the point that says that no more follow.
    """
    kind = writers_of(packed).model
    if (kind.pixels_name, kind.answers) == (OnnxSam.pixels_name, OnnxSam.answers):
        return {}
    names = dict(zip(_ANSWERS, kind.answers, strict=False))
    return {"tensors": {"pixels": kind.pixels_name, **names}, "ends_prompts": kind.ends_prompts}


def _kinds(part: onnx.ModelProto) -> dict[str, int]:
    session = open_session(part.SerializeToString(), "decoder")
    return {one.name: _KINDS[one.type] for one in session.get_outputs()}


class WebSam(OnnxSam):
    """The graphs of a page behind the calls of ``SamModel``, to compare them with the model they came from.

    Args:
        config: the model's configuration.
        graphs: what is shipped.
        name: what to call the model in messages.
    """

    def __init__(self, config: Config, graphs: WebGraphs, name: str) -> None:
        sessions: list[onnxruntime.InferenceSession] = [
            open_session(data, f"{name}: {file}") for file, data in graphs.files().items()
        ]
        super().__init__(config, sessions[0], sessions[2], name)
        self.image = sessions[1]

    def decode(
        self,
        embedding: Tensor,
        coords: Tensor,
        labels: Tensor,
        mask: Tensor | None = None,
        kept: slice = slice(None),
        beside: Mapping[str, Array] = _NOTHING,
    ) -> tuple[Tensor, ...]:
        """As of ``OnnxSam``.

        Raises:
            PromptError: there is a mask prompt, for which the graphs have no input.
        """
        if mask is not None:
            raise PromptError("masks: the graphs of a page take clicks and boxes only; leave out the mask")
        names = [one.name for one in self.image.get_outputs()]
        image = {**beside, self.image_names[0]: embedding.contiguous().numpy()}
        image = {one.name: image[one.name] for one in self.image.get_inputs()}
        side = run_session(self.image, self.name, image, names)
        inputs: dict[str, Any] = {
            "point_coords": coords.float().contiguous().numpy(),
            "point_labels": labels.float().contiguous().numpy(),
            **dict(zip(names, side, strict=True)),
        }
        return self._decoded(inputs, kept)


class WebSam2(WebSam, OnnxSam2):
    """As of ``WebSam``, behind the calls of ``Sam2Model`` and of SAM 3's tracker."""


def web_sam(config: Config, graphs: WebGraphs, name: str) -> WebSam:
    """The graphs of a page behind the calls of its model's family; arguments as of ``WebSam``."""
    levels = issubclass(writers_for(family_of_config(config)).model, OnnxSam2)
    return (WebSam2 if levels else WebSam)(config, graphs, name)
