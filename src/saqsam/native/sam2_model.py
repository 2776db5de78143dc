"""Encoder and decoder of a SAM 2 or SAM 3 on the kernels, with the calls of ``Sam2Model``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from saqsam.families.embedding import Embedding
from saqsam.graphs.sam2_model import OnnxSam2
from saqsam.native.families import features_of
from saqsam.native.model import NativeSam

_NO_POINT = -1.0


class NativeSam2(NativeSam, OnnxSam2):
    """All of it on the kernels; arguments as of ``NativeSam``."""

    def get_image_embeddings(self, pixel_values: Tensor) -> list[Tensor]:
        """As of ``OnnxSam2``."""
        self.check_pixels(pixel_values)
        return features_of(self.native, pixel_values)

    def answers_of(
        self, image: Embedding, coords: Tensor, labels: Tensor, mask: Tensor | None, kept: slice
    ) -> tuple[Tensor, ...]:
        """As of ``NativeSam``: logits, predicted IoU, logits of there being an object, and which mask the
        model's own setting takes for the single answer, ``(P,)``, where all of them are kept. A point that
        says that no more follow is put behind the prompts."""
        coords, labels = F.pad(coords, (0, 0, 0, 1)), F.pad(labels, (0, 1), value=_NO_POINT)
        logits, scores, objects = super().answers_of(image, coords, labels, mask, kept)
        return logits, scores, objects, self._single(logits, scores)

    def _single(self, logits: Tensor, scores: Tensor) -> Tensor:
        """``(P,)``: 0, or where mask 0 is not stable the best other, if the model is set to switch."""
        settings = self.config.mask_decoder_config
        nothing = torch.zeros(len(logits), dtype=torch.int64)
        if not settings.dynamic_multimask_via_stability or logits.shape[1] <= settings.num_multimask_outputs:
            return nothing
        delta = settings.dynamic_multimask_stability_delta
        inner, outer = ((logits[:, 0] > threshold).sum((1, 2)).float() for threshold in (delta, -delta))
        unstable = inner / outer < settings.dynamic_multimask_stability_thresh  # of nothing at all, NaN, not
        return torch.where(unstable, 1 + scores[:, 1:].argmax(1), nothing)
