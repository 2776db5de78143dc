"""Two ONNX sessions with the calls of ``transformers.SamModel``, so that everything else works with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from saqsam.errors import ImageError, PromptError
from saqsam.families.embedding import Embedding
from saqsam.families.record import Config
from saqsam.families.registry import sizes_of
from saqsam.graphs.source import EARLY

if TYPE_CHECKING:
    import onnxruntime

    from saqsam.graphs.graph import Array

_CHANNELS = 3
_SLOTS = "mask_slots"
_NOTHING: Mapping[str, Array] = MappingProxyType({})


@dataclass(frozen=True)
class Embeddings:
    """What the image encoder returns: ``last_hidden_state (B, C, g, g)``, and of SAM-HQ
    ``intermediate_embeddings``, one ``(B, g, g, D)``."""

    last_hidden_state: Tensor
    intermediate_embeddings: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class MaskOutput:
    """``pred_masks (B, P, M, 4g, 4g)`` logits and ``iou_scores (B, P, M)``."""

    pred_masks: Tensor
    iou_scores: Tensor


class OnnxSam:
    """An encoder and a decoder session behind the calls that :mod:`saqsam.segment.predictor` makes.

    Args:
        config: the model's configuration.
        encoder: session of the graph written by :mod:`saqsam.graphs.encoder`; ``None`` for a model that
            encodes by other means.
        decoder: session of the graph written by :mod:`saqsam.graphs.decoder`; ``None`` likewise.
        name: what to call the model in messages.
    """

    dtype = torch.float32
    device = torch.device("cpu")
    mask_decoder = None
    """There is no PyTorch decoder whose parts could be called one by one."""
    pixels_name: ClassVar[str] = "images"
    """What the encoder takes."""
    image_names: ClassVar[tuple[str, ...]] = ("image_embeddings", EARLY)
    """What the decoder takes of an image, the main tensor first."""
    answers: ClassVar[tuple[str, ...]] = ("low_res_masks", "iou_predictions")
    """What is asked of it: masks, scores, and what else there is."""
    ends_prompts: ClassVar[bool] = False
    """Whether the decoder's graph itself puts the point behind a prompt that says that no more follow."""

    def __init__(
        self,
        config: Config,
        encoder: onnxruntime.InferenceSession | None,
        decoder: onnxruntime.InferenceSession | None,
        name: str,
    ) -> None:
        self.config, self.encoder, self.decoder, self.name = config, encoder, decoder, name
        self._inputs = set() if decoder is None else {one.name for one in decoder.get_inputs()}

    def vision_encoder(self, pixel_values: Tensor) -> Embeddings:
        """``(B, 3, S, S)`` float32 to embeddings.

        Raises:
            ImageError: another size than the model's input.
        """
        self.check_pixels(pixel_values)
        return self._encoded(pixel_values)

    def check_pixels(self, pixel_values: Tensor) -> None:
        """Refuse pixels of another size than the model's input; errors as of ``vision_encoder``."""
        side = sizes_of(self).preprocessing.side
        expected = (_CHANNELS, side, side)
        if pixel_values.ndim != 4 or tuple(pixel_values.shape[1:]) != expected:
            raise ImageError(
                "pixels", f"expected a model input of shape (B, {expected}), got {tuple(pixel_values.shape)}"
            )

    def _encoded(self, pixel_values: Tensor) -> Embeddings:
        """Embeddings of pixels whose shape was checked."""
        from saqsam.graphs.session import run_session

        inputs = {self.pixels_name: pixel_values.contiguous().numpy()}
        main, *early = map(torch.from_numpy, run_session(self.encoder, self.name, inputs))
        return Embeddings(main, tuple(stages[0] for stages in early))

    def __call__(
        self,
        image_embeddings: Tensor,
        input_boxes: Tensor | None = None,
        input_points: Tensor | None = None,
        input_labels: Tensor | None = None,
        input_masks: Tensor | None = None,
        multimask_output: bool = True,
        intermediate_embeddings: Sequence[Tensor] = (),
        hq_token_only: bool = False,
    ) -> MaskOutput:
        """Masks for P prompts of each of B images; arguments as of ``transformers.SamModel``, the last two as
        of ``SamHQModel``. What ``hq_token_only`` says is in the graph already.

        Raises:
            PromptError: there is nothing to segment.
        """
        del hq_token_only
        if input_boxes is None and input_points is None:
            if input_masks is None:
                raise PromptError("prompts: there is neither a box, a point nor a mask; give one")
            coords, labels = torch.zeros((len(input_masks), 1, 0, 2)), torch.zeros((len(input_masks), 1, 0))
        else:
            coords, labels = point_inputs(input_boxes, input_points, input_labels)
        found = [
            self.decode(
                image_embeddings[index : index + 1],
                coords[index],
                labels[index],
                None if input_masks is None else input_masks[index : index + 1],
                slice(1, None) if multimask_output else slice(0, 1),
                _beside([early[index : index + 1] for early in intermediate_embeddings]),
            )
            for index in range(len(image_embeddings))
        ]
        # One image's masks are not copied: PyTorch's threads would wake up and spin beside the engine's.
        logits, scores = (
            torch.stack(parts) if len(parts) > 1 else parts[0][None] for parts in zip(*found, strict=True)
        )
        return MaskOutput(logits, scores)

    @staticmethod
    def image_inputs(embedding: Embedding) -> dict[str, Array]:
        """What the decoder's graph takes of one image, by name."""
        early = _beside([x.permute(0, 2, 3, 1) for x in embedding.features])
        return {"image_embeddings": embedding.main.contiguous().numpy(), **early}

    @staticmethod
    def point_inputs(
        boxes: Tensor | None, points: Tensor | None, labels: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """See :func:`point_inputs`."""
        return point_inputs(boxes, points, labels)

    def decode(
        self,
        embedding: Tensor,
        coords: Tensor,
        labels: Tensor,
        mask: Tensor | None = None,
        kept: slice = slice(None),
        beside: Mapping[str, Array] = _NOTHING,
    ) -> tuple[Tensor, ...]:
        """Masks of one image's prompts.

        Args:
            embedding: ``(1, C, g, g)``.
            coords: ``(P, N, 2)`` x, y in pixels of the model's input.
            labels: ``(P, N)``: 1, 0, 2 and 3 for corners, -1 for padding.
            mask: ``(1 or P, 1, 4g, 4g)`` logits, or ``None``.
            kept: which of a prompt's masks; mask 0 is the single answer.
            beside: what the graph takes of the image beside its embedding, by name.

        Returns:
            Logits ``(P, M, 4g, 4g)`` and predicted IoU ``(P, M)``, then what else ``answers`` names.
        """
        low = 4 * embedding.shape[-1]
        inputs: dict[str, Array] = {
            **beside,
            self.image_names[0]: embedding.contiguous().numpy(),
            "point_coords": coords.float().contiguous().numpy(),
            "point_labels": labels.float().contiguous().numpy(),
            "mask_input": np.zeros((1, 1, low, low), np.float32)
            if mask is None
            else mask.contiguous().numpy(),
            "has_mask_input": np.array([mask is not None], np.float32),
            "orig_im_size": np.array([low, low], np.float32),
        }
        return self._decoded({name: value for name, value in inputs.items() if name in self._inputs}, kept)

    def _decoded(self, inputs: dict[str, Array], kept: slice) -> tuple[Tensor, ...]:
        """The decoder's answers; a graph that can choose computes no mask that is not kept."""
        from saqsam.graphs.session import run_session

        masks = kept
        if _SLOTS in self._inputs:
            every = 1 + self.config.mask_decoder_config.num_multimask_outputs
            inputs, masks = {**inputs, _SLOTS: np.arange(every)[kept]}, slice(None)
        found = run_session(self.decoder, self.name, inputs, list(self.answers))
        logits, scores, *others = map(torch.from_numpy, found)
        return logits[:, masks], scores[:, kept], *others


def _beside(early: Sequence[Tensor]) -> Mapping[str, Array]:
    """Early tokens ``(1, g, g, D)`` of SAM-HQ as its graph takes them, ``(1, 1, g, g, D)``."""
    return {EARLY: early[0][None].contiguous().numpy()} if early else {}


def point_inputs(boxes: Tensor | None, points: Tensor | None, labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """Boxes and clicks as the points that SAM's prompt encoder is built on.

    A box is two points with labels 2 and 3; clicks without a box are followed by one padding point.

    Args:
        boxes: ``(B, P, 4)`` in pixels of the model's input, or ``None``.
        points: ``(B, P, K, 2)`` in pixels of the model's input, or ``None``.
        labels: ``(B, P, K)``; ``None`` means that all clicks are on the object.

    Returns:
        Coordinates ``(B, P, N, 2)`` and labels ``(B, P, N)``, float32.
    """
    coords, kinds = [], []
    if points is not None:
        coords.append(points.float())
        kinds.append(points.new_ones(points.shape[:3]).float() if labels is None else labels.float())
        if boxes is None:
            coords.append(points.new_zeros((*points.shape[:2], 1, 2)).float())
            kinds.append(points.new_full((*points.shape[:2], 1), -1).float())
    if boxes is not None:
        coords.append(boxes.float().unflatten(-1, (2, 2)))
        kinds.append(torch.tensor([2.0, 3.0]).expand(*boxes.shape[:2], 2))
    return torch.cat(coords, dim=2), torch.cat(kinds, dim=2)
