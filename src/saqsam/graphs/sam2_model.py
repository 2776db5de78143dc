"""SAM 2's two sessions with the calls of ``transformers.Sam2Model`` that its record makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from saqsam.families.embedding import Embedding
from saqsam.families.record import Answers
from saqsam.graphs.model import OnnxSam, point_inputs
from saqsam.graphs.sam2_names import FINE, MAIN, MIDDLE, OBJECTS, SINGLE

if TYPE_CHECKING:
    from saqsam.graphs.graph import Array

_NO_POINT = -1.0


class OnnxSam2(OnnxSam):
    """As of ``OnnxSam``, for graphs of :mod:`saqsam.graphs.sam2_encoder` and ``sam2_decoder``."""

    pixels_name: ClassVar[str] = "image"
    image_names: ClassVar[tuple[str, ...]] = (MAIN, FINE, MIDDLE)
    answers: ClassVar[tuple[str, ...]] = ("masks", "iou_predictions", OBJECTS, SINGLE)
    ends_prompts: ClassVar[bool] = True

    def get_image_embeddings(self, pixel_values: Tensor) -> list[Tensor]:
        """``(B, 3, S, S)`` float32 to the levels of the embedding, the finest first.

        Raises:
            ImageError: another size than the model's input.
        """
        from saqsam.graphs.session import run_session

        self.check_pixels(pixel_values)
        inputs = {self.pixels_name: pixel_values.contiguous().numpy()}
        return list(map(torch.from_numpy, run_session(self.encoder, self.name, inputs, [FINE, MIDDLE, MAIN])))

    @staticmethod
    def image_inputs(embedding: Embedding) -> dict[str, Array]:
        """What the decoder's graph takes of one image, by name."""
        names = (MAIN, FINE, MIDDLE)
        return {name: x.contiguous().numpy() for name, x in zip(names, embedding.tensors, strict=True)}

    @staticmethod
    def point_inputs(
        boxes: Tensor | None, points: Tensor | None, labels: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """As of :func:`saqsam.graphs.model.point_inputs`; the graph itself ends every prompt with padding."""
        coords, kinds = point_inputs(boxes, points, labels)
        return (coords, kinds) if boxes is not None else (coords[:, :, :-1], kinds[:, :, :-1])

    def answer(
        self,
        embedding: Embedding,
        *,
        input_boxes: Tensor | None,
        input_points: Tensor | None,
        input_labels: Tensor | None,
        input_masks: Tensor | None,
        multimask_output: bool,
        may_switch: bool,
    ) -> Answers:
        """As of :meth:`saqsam.families.record.Decoder.answer`.

        Raises:
            PromptError: there is nothing to segment.
        """
        if input_boxes is None and input_points is None and input_masks is not None:
            input_points = torch.zeros((len(input_masks), 1, 1, 2))
            input_labels = torch.full((len(input_masks), 1, 1), _NO_POINT)
        coords, labels = self.point_inputs(input_boxes, input_points, input_labels)
        kept = slice(1, None) if multimask_output else slice(None) if may_switch else slice(0, 1)
        found = []
        for index, one in enumerate(embedding.split()):
            image = self.image_inputs(one)
            main = image.pop(MAIN)
            mask = None if input_masks is None else input_masks[index : index + 1]
            logits, scores, objects, single = self.decode(
                torch.from_numpy(main), coords[index], labels[index], mask, kept, image
            )
            if may_switch:
                chosen = single[:, None]
                logits = torch.take_along_dim(logits, chosen[..., None, None], dim=1)
                scores = scores.gather(1, chosen)
            found.append((logits, scores, objects[:, 0]))
        # One image's masks are not copied: PyTorch's threads would wake up and spin beside the engine's.
        return Answers.of(
            [torch.stack(same) if len(same) > 1 else same[0][None] for same in zip(*found, strict=True)]
        )
