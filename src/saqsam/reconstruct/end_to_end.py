"""The whole model as one last unit: what its parts learned separately is tuned to one another.

Weights are on their grids by then and stay there. Scales and biases (and whatever else ``Learner`` learns
without rounding) follow the masks and predicted IoU that come out, compared with the float model's: the
prompt-aware idea of SAQ-SAM taken to its end, where no layer is skipped any more.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from saqsam.families.embedding import Embedding
from saqsam.families.record import Model, State
from saqsam.families.registry import decoder_of, encoder_of, sizes_of
from saqsam.models.sites import ENCODER
from saqsam.reconstruct.prompting import Prompting
from saqsam.reconstruct.units import Unit


def end_to_end_unit(model: Model, prompting: Prompting) -> Unit:
    """Patch tokens ``(images, H, W, D)`` in, tensors of embeddings out; the view is the masks."""
    encoder = encoder_of(model)

    def run(state: State) -> State:
        for index, block in enumerate(encoder.blocks):
            state = encoder.carry(index, state, block(state[0]))
        return encoder.finish(state).tensors

    def view(state: State, images: Sequence[int]) -> Tensor:
        return masks_and_scores(model, prompting, Embedding.of(state), images)

    local = (1.0,) * len(sizes_of(model).embedding)
    modules = (encoder.module, *encoder.neck_parts, decoder_of(model).transformer)
    return Unit("whole-model", ENCODER, modules, run, view, (), local, channels=1)


def masks_and_scores(
    model: Model, prompting: Prompting, embedding: Embedding, images: Sequence[int]
) -> Tensor:
    """All masks of all prompts as probabilities, and their predicted IoU: ``(P, pixels + 1, masks)``.

    Probabilities rather than logits, because a mask is decided at its outline. The scores are multiplied by
    the square root of the number of pixels, so that in a mean of squares they weigh as much as a mask.

    Args:
        model: whose decoder answers.
        prompting: the prompts.
        embedding: of the images.
        images: which images these are.
    """
    tokens, counts = prompting.batch(images)
    decoder = decoder_of(model)
    image = (embedding.main + prompting.dense).repeat_interleave(counts, dim=0)
    tokens, keys = decoder.transform(tokens, image, prompting.positions)
    tokens = tokens[:, 0]
    masks = torch.sigmoid(decoder.masks(tokens, keys, embedding.repeat(counts)))
    scores = decoder.scores(tokens)[:, None] * masks.shape[1] ** 0.5
    return torch.cat([masks, scores], dim=1)
