"""Proof that exported graphs are the audited model: codes, logits and masks side by side.

How equal can they be? Quantized networks are not smooth, see :mod:`saqsam.export.codes`: on most images two
implementations compute the very same codes, but one rounding error in a bad place gives another mask, and
that holds for the audited model itself. Three questions are therefore kept apart:

* given the same input, does every block compute the same codes?
* given the same embedding, does the decoder draw the same masks?
* from pixels to masks, do the graphs agree with the model as well as the model agrees with itself when
  rounding errors disturb its blocks?
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from saqsam.errors import InvariantError
from saqsam.export.codes import Maker, Shares, decoder_codes, encoder_codes, total_share, worst_site
from saqsam.families.embedding import Embedding
from saqsam.families.framing import preprocess
from saqsam.families.record import Model, State
from saqsam.families.registry import encoder_of
from saqsam.graphs.model import OnnxSam
from saqsam.graphs.source import Source
from saqsam.images.frame import Frame
from saqsam.prompts.prompts import Prompts
from saqsam.segment.predictor import decode, embed, upscale_masks

SAME_MASK = 0.999
"""IoU from which two masks count as the same."""
SAME_CODES = 0.999
"""Share of equal codes from which two implementations of a step count as the same."""
SAME_DECODER_CODES = 0.97
"""The same for the decoder, which is compared as a whole: one code that differs is followed by others. All
are equal on most images, 0.988 were where one was not."""
SLACK = 0.03
"""By how much the graphs may agree less with the model than its disturbed self: few prompts, heavy tails."""
DECODER_SLACK = 0.001
"""The same for the decoder alone, which has two layers."""
DISTURBANCE = 1e-5
"""Relative noise on what each block is given: what is left of float32 after a hundred roundings."""
SAME_EMBEDDING = 1e-4
"""Relative difference below which no code can have been another one."""


@dataclass(frozen=True)
class Case:
    """One image with prompts, in displayed-image pixels.

    Attributes:
        name: in messages and reports.
        pixels: ``(H, W, 3)`` uint8 RGB.
        prompts: at least one.
    """

    name: str
    pixels: npt.NDArray[np.uint8]
    prompts: Prompts


@dataclass
class Parity:
    """What was compared and how it came out; IoU are means over prompts.

    Attributes:
        images: names of the images.
        prompts: number of prompts.
        mask_iou: from pixels to masks, graphs against model.
        worst_mask_iou: the least of them.
        repeatability: model against itself, each block's input disturbed by rounding errors.
        same_embeddings: images on which the encoder's codes are all the same, so that only rounding is left.
        decoder_mask_iou: graphs against model, given the model's embedding.
        decoder_repeatability: model against itself, the embedding disturbed by rounding errors.
        worst_decoder_mask_iou: the least of them.
        decoder_logit_difference: largest, given the model's embedding.
        logit_difference: largest, from pixels.
        equal_codes: share of the encoder's codes that are equal, each block given the same input.
        decoder_equal_codes: share of the decoder's, given the same embedding.
        worst_site: site with the fewest equal codes, and its share.
        sites: number of sites compared.
    """

    images: list[str] = field(default_factory=list)
    prompts: int = 0
    mask_iou: float = 0.0
    worst_mask_iou: float = 0.0
    repeatability: float = 0.0
    same_embeddings: int = 0
    decoder_mask_iou: float = 0.0
    decoder_repeatability: float = 0.0
    worst_decoder_mask_iou: float = 0.0
    decoder_logit_difference: float = 0.0
    logit_difference: float = 0.0
    equal_codes: float = 0.0
    decoder_equal_codes: float = 0.0
    worst_site: tuple[str, float] | None = None
    sites: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        limits = {"mask_iou": SAME_MASK, "codes": SAME_CODES, "slack": SLACK, "disturbance": DISTURBANCE}
        return {**asdict(self), "limits": limits}

    def problem(self) -> str | None:
        """What keeps the graphs from being the model, or ``None``."""
        if self.decoder_equal_codes < SAME_DECODER_CODES:
            return f"only {self.decoder_equal_codes:.4%} of its decoder's codes are equal"
        if self.equal_codes < SAME_CODES:
            return f"only {self.equal_codes:.4%} of the codes are equal, at {self.worst_site} fewest"
        if not self.decoder_mask_iou >= min(SAME_MASK, self.decoder_repeatability - DECODER_SLACK):
            return f"its decoder's masks agree with the model's to IoU {self.decoder_mask_iou:.5f} only"
        if not self.mask_iou >= min(SAME_MASK, self.repeatability - SLACK):
            return (
                f"its masks agree with the model's to IoU {self.mask_iou:.5f}; the model agrees with itself "
                f"to {self.repeatability:.5f} when it is disturbed by rounding errors"
            )
        return None


def check_parity(
    model: Model,
    graphs: OnnxSam,
    cases: Sequence[Case],
    source: Source,
    maker: Maker,
    opset: int,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Parity:
    """Compare graphs with the model they were made from.

    Args:
        model: the audited model, on the CPU.
        graphs: sessions of the two graphs.
        cases: images to compare on; codes are compared on the first.
        source: what the graphs were built from.
        maker: arithmetic they were built with.
        opset: they were built in.
        progress: called with the stage's name, steps done and steps in total.

    Raises:
        InvariantError: they are not the same model; the message says in what.
    """
    tally = _Tally()
    generator = torch.Generator().manual_seed(0)
    shares: Shares = {}
    decoder_shares: Shares = {}
    for index, case in enumerate(cases):
        progress("verify", index, len(cases))
        pixel_values, frame = preprocess(model, case.pixels)
        embedding = embed(model, pixel_values)
        tally.add(model, graphs, case.prompts, frame, pixel_values, embedding, generator)
        if index == 0 and source.packed.weights:  # a float model has no codes
            shares = encoder_codes(model, source, maker, pixel_values, opset)
            decoder_shares = decoder_codes(model, source, maker, embedding, case.prompts, frame, opset)
    progress("verify", len(cases), len(cases))
    parity = Parity(
        images=[case.name for case in cases],
        prompts=len(tally.whole),
        mask_iou=float(np.mean(tally.whole)),
        worst_mask_iou=float(np.min(tally.whole)),
        repeatability=float(np.mean(tally.disturbed)),
        same_embeddings=tally.same_embeddings,
        decoder_mask_iou=float(np.mean(tally.decoder)),
        decoder_repeatability=float(np.mean(tally.decoder_disturbed)),
        worst_decoder_mask_iou=float(np.min(tally.decoder)),
        decoder_logit_difference=tally.decoder_difference,
        logit_difference=tally.difference,
        equal_codes=total_share(shares),
        decoder_equal_codes=total_share(decoder_shares),
        worst_site=worst_site(shares),
        sites=len(shares) + len(decoder_shares),
    )
    problem = parity.problem()
    if problem is not None:
        raise InvariantError("export", f"the ONNX graphs are not the audited model: {problem}")
    return parity


class _Tally:
    """Agreement of each prompt's mask."""

    def __init__(self) -> None:
        self.whole: list[float] = []
        self.disturbed: list[float] = []
        self.decoder: list[float] = []
        self.decoder_disturbed: list[float] = []
        self.difference = self.decoder_difference = 0.0
        self.same_embeddings = 0

    def add(
        self,
        model: Model,
        graphs: OnnxSam,
        prompts: Prompts,
        frame: Frame,
        pixel_values: Tensor,
        embedding: Embedding,
        generator: torch.Generator,
    ) -> None:
        """Add one image's prompts."""
        stand_in = cast(Model, graphs)
        own = embed(stand_in, pixel_values)
        expected = decode(model, embedding, prompts, frame)[0]
        given = decode(stand_in, embedding, prompts, frame)[0]
        whole = decode(stand_in, own, prompts, frame)[0]
        disturbed = decode(model, disturbed_embedding(model, pixel_values, generator), prompts, frame)[0]
        noisy = embedding.map(lambda x: x * (1 + DISTURBANCE * torch.randn(x.shape, generator=generator)))
        shaken = decode(model, noisy, prompts, frame)[0]
        truth = upscale_masks(expected, frame)
        for logits, ious in (
            (given, self.decoder),
            (shaken, self.decoder_disturbed),
            (whole, self.whole),
            (disturbed, self.disturbed),
        ):
            ious += mask_ious(upscale_masks(logits, frame), truth)
        self.same_embeddings += _apart(own, embedding) < SAME_EMBEDDING
        self.difference = _largest(self.difference, whole, expected)
        self.decoder_difference = _largest(self.decoder_difference, given, expected)


@torch.no_grad()
def disturbed_embedding(model: Model, pixel_values: Tensor, generator: torch.Generator) -> Embedding:
    """The model's embedding when noise of ``DISTURBANCE`` multiplies each block's input."""

    def disturbed(x: Tensor) -> Tensor:
        return x * (1 + DISTURBANCE * torch.randn(x.shape, generator=generator))

    encoder = encoder_of(model)
    state: State = (encoder.start(pixel_values),)
    for index, block in enumerate(encoder.blocks):
        state = encoder.carry(index, state, encoder.run_block(block, disturbed(state[0])))
    return encoder.finish((disturbed(state[0]), *state[1:]))


def mask_ious(masks: Tensor, others: Tensor) -> list[float]:
    """IoU of each pair of ``(P, 1, H, W)`` bool masks; 1 where both are empty."""
    common = (masks & others).flatten(1).sum(1).double()
    union = (masks | others).flatten(1).sum(1).double()
    return [float(one) for one in torch.where(union > 0, common / union.clamp(min=1), 1.0)]


def _apart(own: Embedding, other: Embedding) -> float:
    """Relative difference of two embeddings, of that of their tensors which differs most."""
    pairs = zip(own.tensors, other.tensors, strict=True)
    return max(float((x - y).norm() / y.norm()) for x, y in pairs)


def _largest(so_far: float, logits: Tensor, expected: Tensor) -> float:
    return max(so_far, float((logits - expected).abs().max()))
