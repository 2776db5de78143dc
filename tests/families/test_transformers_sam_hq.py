"""What ``transformers``' own SAM-HQ computes, and what it should; see ``docs/transformers-sam-hq.md``.

The day this test fails because the two agree, ``transformers`` is mended: take the page and
``saqsam.families.sam_hq_model.HQMaskDecoder.forward`` away.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.checkpoints.published import SIDE, Official, image_encoder, some_prompts
from tests.families.published_sam_hq import mask_decoder
from tests.families.tiny_sam_hq import plain_sam_hq
from torch import Tensor

from saqsam.checkpoints.official import split_rows
from saqsam.families.sam_hq_layout import HQ_LAYOUT
from saqsam.families.sam_hq_model import HQModel
from saqsam.prompts.prompts import Prompts

CLOSE: dict[str, Any] = {"atol": 2e-5, "rtol": 1e-4}


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randn((1, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(1))


def asked(prompts: Prompts) -> dict[str, Tensor]:
    """Prompts of one image as ``transformers`` takes them, in pixels of the model's input."""
    given = {"input_boxes": prompts.boxes, "input_points": prompts.points, "input_labels": prompts.labels}
    return {name: value[None] for name, value in given.items() if value is not None}


@pytest.mark.parametrize("kind", ["boxes", "points"])
def test_transformers_upscales_what_its_transformer_was_given(pixels: Tensor, kind: str) -> None:
    model = plain_sam_hq()
    state = Official(HQ_LAYOUT.to_official(model.state_dict(), split_rows))
    embedding, (early, _) = image_encoder(state, pixels)
    prompts = some_prompts(kind)
    own = model(pixels, **asked(prompts), multimask_output=False)
    mended = HQModel(model.config)
    mended.load_state_dict(model.state_dict())
    found = mended.eval()(pixels, **asked(prompts), multimask_output=False)
    for row in range(len(prompts)):
        wrong, wrong_hq, scores = mask_decoder(state, embedding, early, prompts, row, wrong_image=True)
        torch.testing.assert_close(own.pred_masks[0, row, 0], wrong[0] + wrong_hq, **CLOSE)
        right, right_hq, _ = mask_decoder(state, embedding, early, prompts, row)
        difference = (own.pred_masks[0, row, 0] - right[0] - right_hq).abs().max()
        assert float(difference) > 0.1 * float(right.std())
        torch.testing.assert_close(found.pred_masks[0, row, 0], right[0] + right_hq, **CLOSE)
        torch.testing.assert_close(found.iou_scores[0, row], scores[:1], **CLOSE)
