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

from saqsam.families.embedding import Embedding
from saqsam.families.record import Model
from saqsam.families.registry import decoder_of
from saqsam.images.frame import Frame
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

    model: Model
    tokens: tuple[Tensor, ...]
    dense: Tensor
    positions: Tensor

    @classmethod
    def of(
        cls,
        model: Model,
        images: Sequence[tuple[Prompts, Frame]],
        prompts: int,
        generator: torch.Generator,
        clicks: float = 0.0,
    ) -> Prompting:
        """Embed prompts of each image.

        Args:
            model: the model.
            images: prompts and frame of each image.
            prompts: at most so many of each image are drawn.
            generator: draws them; on the CPU.
            clicks: share of the boxes that become a click on the centre of the box.
        """
        decoder = decoder_of(model)
        output = decoder.output_tokens()
        tokens, dense = [], output.new_zeros(())
        for asked, frame in images:
            order = torch.randperm(len(asked), generator=generator)[:prompts]
            clicked = round(clicks * len(order)) if asked.points is None else 0
            sparse = []
            for rows, as_click in ((order[clicked:].sort().values, False), (order[:clicked], True)):
                if len(rows):
                    arguments = _arguments(asked, frame, rows, model.device, as_click)
                    embedded, dense = decoder.embed_prompts(**arguments)
                    if embedded is not None:
                        sparse.append(embedded[0][:, None])
            together = torch.cat(_equally_long(sparse))
            tokens.append(torch.cat([output.expand(len(together), 1, -1, -1), together], dim=2))
        return cls(model, tuple(tokens), dense[:1], decoder.positions())

    def batch(self, images: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Tokens ``(P, 1, T, C)`` of some images together, and the number of prompts of each."""
        chosen = [self.tokens[image] for image in images]
        return torch.cat(chosen), torch.tensor([len(each) for each in chosen], device=self.dense.device)

    def usual(self) -> int:
        """An image with about as many prompts as the images have on average, and not fewer."""
        counts = [len(tokens) for tokens in self.tokens]
        mean = sum(counts) / len(counts)
        return min(range(len(counts)), key=lambda image: (counts[image] < mean, counts[image]))

    def start(self, embedding: Embedding, images: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """The decoder's state before its first layer: queries, keys and tokens of all prompts.

        Args:
            embedding: of the images.
            images: which images these are.
        """
        tokens, counts = self.batch(images)
        keys = (embedding.main + self.dense).flatten(2).transpose(1, 2)[:, None]
        return tokens, keys.repeat_interleave(counts, dim=0), tokens

    def image_tokens(self, embedding: Tensor, images: Sequence[int]) -> Tensor:
        """Image tokens after they met the prompts (CIT of SAQ-SAM): ``(P, N, C)``.

        Args:
            embedding: ``(images, C, g, g)`` from the neck.
            images: which images these are.
        """
        tokens, counts = self.batch(images)
        image = (embedding + self.dense).repeat_interleave(counts, dim=0)
        _, keys = decoder_of(self.model).transform(tokens, image, self.positions)
        found: Tensor = keys[:, 0]
        return found

    def image_positions(self) -> Tensor:
        """Position code of the image tokens, ``(1, 1, N, C)``."""
        return self.positions.flatten(2).transpose(1, 2)[:, None]


def _equally_long(parts: list[Tensor]) -> list[Tensor]:
    """Tokens ``(P, 1, T, C)`` of boxes and of clicks with one T.

    With SAM both have two: a box its corners, a click itself and a token that says no more follow. With SAM 2
    a box has that token too, so a click's is repeated.
    """
    longest = max(part.shape[2] for part in parts)
    return [
        torch.cat([part, part[:, :, -1:].expand(-1, -1, longest - part.shape[2], -1)], dim=2)
        if part.shape[2] < longest
        else part
        for part in parts
    ]


def _arguments(
    prompts: Prompts, frame: Frame, rows: Tensor, device: torch.device, as_click: bool
) -> dict[str, Tensor | None]:
    """What ``transformers``' prompt encoder takes, for some rows of one image's prompts."""
    boxes = None if prompts.boxes is None else frame.scale_boxes(prompts.boxes[rows])[None].to(device)
    points = None if prompts.points is None else frame.scale_points(prompts.points[rows])[None].to(device)
    labels = None if prompts.labels is None else prompts.labels[rows][None].to(device)
    if as_click and boxes is not None:
        points = boxes.unflatten(-1, (2, 2)).mean(-2, keepdim=True)
        labels, boxes = torch.ones(points.shape[:-1], dtype=torch.int64, device=device), None
    return {"input_boxes": boxes, "input_points": points, "input_labels": labels}
