"""SAM by its calls alone, for what has only them: a model that an engine computes instead of PyTorch."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor

from saqsam.families.embedding import Embedding
from saqsam.families.record import Answers, Prepared


def embedding_of(encoder: Any, pixel_values: Tensor) -> Embedding:
    """``(B, 3, S, S)`` to embeddings ``(B, C, g, g)`` by calling the image encoder."""
    return Embedding(cast(Tensor, encoder(pixel_values).last_hidden_state))


class SamCalls:
    """The part of :class:`saqsam.families.record.Encoder` and ``Decoder`` that takes no modules.

    Args:
        model: anything with the calls of ``SamModel``.
    """

    def __init__(self, model: Any) -> None:
        self.model: Any = model

    @property
    def switches(self) -> bool:
        """A single mask is always the first one."""
        return False

    def encode(self, pixel_values: Tensor) -> Embedding:
        """See :func:`embedding_of`."""
        return embedding_of(self.model.vision_encoder, pixel_values)

    def prepared(self, embedding: Embedding, *, with_masks: bool = False) -> Prepared | None:
        """``None``: its own calls share what can be shared."""

    def answer(
        self,
        embedding: Embedding,
        *,
        input_boxes: Tensor | None = None,
        input_points: Tensor | None = None,
        input_labels: Tensor | None = None,
        input_masks: Tensor | None = None,
        multimask_output: bool = False,
        may_switch: bool = False,
    ) -> Answers:
        """Masks ``(B, P, M, 4g, 4g)`` and predicted IoU by the model's own ``forward``."""
        del may_switch
        output = self.model(
            image_embeddings=embedding.main,
            input_boxes=input_boxes,
            input_points=input_points,
            input_labels=input_labels,
            input_masks=input_masks,
            multimask_output=multimask_output,
        )
        return Answers(output.pred_masks, output.iou_scores)
