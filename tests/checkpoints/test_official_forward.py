"""A SAM written down from the paper, reading tensors by their official names, agrees with what was loaded.

This is the check that renaming is right and not merely reversible.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.checkpoints.published import (
    DECODER_HEADS,
    ENCODER_HEADS,
    GLOBAL,
    GRID,
    SIDE,
    WINDOW,
    Official,
    image_encoder,
    mask_decoder,
    some_prompts,
)
from transformers import SamModel

from saqsam.checkpoints.load import load_float
from saqsam.checkpoints.official import write_official
from saqsam.families.embedding import Embedding
from saqsam.images.frame import Frame
from saqsam.segment.predictor import decode, embed

FRAME = Frame((SIDE, SIDE), (SIDE, SIDE), SIDE)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import SamConfig

    def config() -> SamConfig:
        sizes = {"image_size": SIDE, "patch_size": SIDE // GRID}
        return SamConfig(
            vision_config={
                **sizes,
                "hidden_size": 48,
                "output_channels": 32,
                "num_hidden_layers": 4,
                "num_attention_heads": ENCODER_HEADS,
                "window_size": WINDOW,
                "global_attn_indexes": list(GLOBAL),
                "num_pos_feats": 16,
                "mlp_dim": 96,
            },
            prompt_encoder_config={**sizes, "hidden_size": 32, "mask_input_channels": 8},
            mask_decoder_config={
                "hidden_size": 32,
                "mlp_dim": 64,
                "num_attention_heads": DECODER_HEADS,
                "iou_head_hidden_dim": 32,
            },
        )

    path = tmp_path_factory.mktemp("official") / "some.pth"
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = SamModel(config())
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter) * (0.2 if parameter.ndim < 2 else 0.12)
            parameter.data.copy_(noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
        model.shared_image_embedding.positional_embedding.data.normal_()
    model.tie_weights()
    write_official(model, path)
    return path


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize(
    "kind", ["boxes", "points", "boxes and points", "boxes and masks", "points and masks"]
)
def test_loading_an_official_file_gives_the_model_that_the_paper_describes(
    written: Path, kind: str, multimask: bool
) -> None:
    sam = Official(torch.load(written, weights_only=True))
    model = load_float(written)
    pixels = torch.randn((1, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(1))
    embedding, (expected, _) = embed(model, pixels).main, image_encoder(sam, pixels)
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(embedding, expected, atol=5e-5, rtol=1e-4)

    prompts = some_prompts(kind)
    logits, scores = decode(model, Embedding(expected), prompts, FRAME, multimask_output=multimask)
    for row in range(len(prompts)):
        all_logits, all_scores = mask_decoder(sam, expected, prompts, row)
        assert float(all_logits.std()) > 0.01
        chosen = slice(1, 4) if multimask else slice(0, 1)
        torch.testing.assert_close(logits[row], all_logits[chosen], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(scores[row], all_scores[chosen], atol=2e-5, rtol=1e-4)
