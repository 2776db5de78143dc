"""Calibration prompts as the mask decoder's transformer takes them, and what it makes of an image.

In all states of the decoder here, prompts are dimension 0: tokens ``(P, 1, T, C)``, image tokens
``(P, 1, N, C)``. ``transformers`` broadcasts one image over its prompts instead; the numbers are the
same, and prompts of several images make one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import SamModel

from saqsam.predictor import Frame
from saqsam.prompts.prompts import Prompts


@dataclass(frozen=True)
class Prompting:
    """The decoder's side of the calibration set.

    Attributes:
        model: the model whose decoder is used.
        tokens: of each image ``(P, 1, T, C)``: output tokens, then the prompt's own.
        dense: ``(1, C, g, g)``, the same for all prompts without masks, stored once.
        positions: ``(1, C, g, g)`` position code of the image tokens.
    """

    model: SamModel
    tokens: tuple[Tensor, ...]
    dense: Tensor
    positions: Tensor

    @classmethod
    def of(
        cls,
        model: SamModel,
        images: Sequence[tuple[Prompts, Frame]],
        prompts: int,
        generator: torch.Generator,
    ) -> Prompting:
        """Embed at most ``prompts`` prompts of each image, drawn with ``generator`` (on the CPU)."""
        decoder = model.mask_decoder
        output = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        tokens, dense = [], output.new_zeros(())
        for asked, frame in images:
            rows = torch.randperm(len(asked), generator=generator)[:prompts].sort().values
            arguments = _arguments(asked, frame, rows, model.device)
            sparse, dense = model.prompt_encoder(input_masks=None, **arguments)
            sparse = sparse[0][:, None]
            tokens.append(torch.cat([output.expand(len(sparse), 1, -1, -1), sparse], dim=2))
        return cls(model, tuple(tokens), dense[:1], model.get_image_wide_positional_embeddings())

    def batch(self, images: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Tokens ``(P, 1, T, C)`` of some images together, and the number of prompts of each."""
        chosen = [self.tokens[image] for image in images]
        return torch.cat(chosen), torch.tensor([len(each) for each in chosen], device=self.dense.device)

    def start(self, embedding: Tensor, images: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """The decoder's state before its first layer: queries, keys and tokens of all prompts.

        Args:
            embedding: ``(images, C, g, g)`` from the neck.
            images: which images these are.
        """
        tokens, counts = self.batch(images)
        keys = (embedding + self.dense).flatten(2).transpose(1, 2)[:, None]
        return tokens, keys.repeat_interleave(counts, dim=0), tokens

    def image_tokens(self, embedding: Tensor, images: Sequence[int]) -> Tensor:
        """Image tokens after they met the prompts (CIT of SAQ-SAM): ``(P, N, C)``.

        Args:
            embedding: ``(images, C, g, g)`` from the neck.
            images: which images these are.
        """
        tokens, counts = self.batch(images)
        _, keys = self.model.mask_decoder.transformer(
            point_embeddings=tokens,
            image_embeddings=(embedding + self.dense).repeat_interleave(counts, dim=0),
            image_positional_embeddings=self.positions,
            attention_similarity=None,
        )
        found: Tensor = keys[:, 0]
        return found

    def image_positions(self) -> Tensor:
        """Position code of the image tokens, ``(1, 1, N, C)``."""
        return self.positions.flatten(2).transpose(1, 2)[:, None]


def _arguments(
    prompts: Prompts, frame: Frame, rows: Tensor, device: torch.device
) -> dict[str, Tensor | None]:
    boxes = None if prompts.boxes is None else frame.scale_boxes(prompts.boxes[rows])[None].to(device)
    points = None if prompts.points is None else frame.scale_points(prompts.points[rows])[None].to(device)
    labels = None if prompts.labels is None else prompts.labels[rows][None].to(device)
    return {"input_boxes": boxes, "input_points": points, "input_labels": labels}
