"""A SAM written down from the paper, reading tensors by their official names, agrees with what was loaded.

This is the check that renaming is right and not merely reversible: the functions below know the official
names and the architecture, and nothing of ``transformers`` or of saqsam's rules.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import SamModel

from saqsam.checkpoints.load import load_float
from saqsam.checkpoints.official import write_official
from saqsam.families.embedding import Embedding
from saqsam.images.frame import Frame
from saqsam.prompts.prompts import Prompts
from saqsam.segment.predictor import decode, embed

ENCODER_HEADS, DECODER_HEADS, WINDOW, GLOBAL = 3, 2, 3, (1, 3)
SIDE, GRID = 64, 8
FRAME = Frame((SIDE, SIDE), (SIDE, SIDE), SIDE)


class Official:
    """Tensors by official name, with the handful of layers that SAM is made of."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = state

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def norm(self, name: str, x: Tensor, eps: float) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
        return scaled * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]

    def norm_channels(self, name: str, x: Tensor) -> Tensor:
        return self.norm(name, x.movedim(1, -1), 1e-6).movedim(-1, 1)

    def conv(self, name: str, x: Tensor, **how: Any) -> Tensor:
        return F.conv2d(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"), **how)

    def up(self, name: str, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], stride=2)

    def mlp(self, name: str, x: Tensor) -> Tensor:
        for layer in range(3):
            x = self.linear(f"{name}.layers.{layer}", x)
            x = x.relu() if layer < 2 else x
        return x

    def positions(self, xy: Tensor) -> Tensor:
        """(..., 2) in 0..1 -> (..., C)."""
        matrix = self.state["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"]
        angles = 2 * math.pi * ((2 * xy - 1) @ matrix)
        return torch.cat([angles.sin(), angles.cos()], -1)


def image_encoder(sam: Official, pixels: Tensor) -> Tensor:
    x = sam.conv("image_encoder.patch_embed.proj", pixels, stride=SIDE // GRID).movedim(1, -1)
    x = x + sam.state["image_encoder.pos_embed"]
    for block in range(4):
        name = f"image_encoder.blocks.{block}"
        y = sam.norm(f"{name}.norm1", x, 1e-6)
        side = GRID if block in GLOBAL else WINDOW
        padded = math.ceil(GRID / side) * side
        y = F.pad(y, (0, 0, 0, padded - GRID, 0, padded - GRID))
        out = torch.zeros_like(y)
        for top in range(0, padded, side):
            for left in range(0, padded, side):
                window = (slice(None), slice(top, top + side), slice(left, left + side))
                out[window] = encoder_attention(sam, f"{name}.attn", y[window])
        x = x + out[:, :GRID, :GRID]
        y = sam.norm(f"{name}.norm2", x, 1e-6)
        x = x + sam.linear(f"{name}.mlp.lin2", F.gelu(sam.linear(f"{name}.mlp.lin1", y)))
    x = sam.norm_channels("image_encoder.neck.1", sam.conv("image_encoder.neck.0", x.movedim(-1, 1)))
    return sam.norm_channels("image_encoder.neck.3", sam.conv("image_encoder.neck.2", x, padding=1))


def encoder_attention(sam: Official, name: str, x: Tensor) -> Tensor:
    """(1, s, s, D): relative positions are added pair by pair, as the paper defines them."""
    side, width = x.shape[1], x.shape[3]
    q, k, v = sam.linear(f"{name}.qkv", x.reshape(side * side, width)).split(width, -1)
    rows, columns = torch.arange(side * side) // side, torch.arange(side * side) % side
    tall = sam.state[f"{name}.rel_pos_h"][rows[:, None] - rows[None] + side - 1]
    wide = sam.state[f"{name}.rel_pos_w"][columns[:, None] - columns[None] + side - 1]
    heads = []
    for qh, kh, vh in zip(*(t.chunk(ENCODER_HEADS, -1) for t in (q, k, v)), strict=True):
        scores = qh @ kh.T / math.sqrt(qh.shape[-1])
        scores = scores + torch.einsum("qc,qkc->qk", qh, tall) + torch.einsum("qc,qkc->qk", qh, wide)
        heads.append(scores.softmax(-1) @ vh)
    return sam.linear(f"{name}.proj", torch.cat(heads, -1)).reshape(x.shape)


def decoder_attention(sam: Official, name: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (sam.linear(f"{name}.{which}_proj", x) for which, x in (("q", q), ("k", k), ("v", v)))
    heads = [
        (qh @ kh.T / math.sqrt(qh.shape[-1])).softmax(-1) @ vh
        for qh, kh, vh in zip(*(t.chunk(DECODER_HEADS, -1) for t in (q, k, v)), strict=True)
    ]
    return sam.linear(f"{name}.out_proj", torch.cat(heads, -1))


def sparse_prompt(sam: Official, prompts: Prompts, row: int) -> Tensor:
    def code(xy: Tensor) -> Tensor:
        return sam.positions((xy + 0.5) / SIDE)

    tokens = []
    if prompts.points is not None and prompts.labels is not None:
        for xy, label in zip(prompts.points[row], prompts.labels[row], strict=True):
            tokens.append(code(xy) + sam.state[f"prompt_encoder.point_embeddings.{int(label)}.weight"][0])
        if prompts.boxes is None:
            tokens.append(sam.state["prompt_encoder.not_a_point_embed.weight"][0])
    if prompts.boxes is not None:
        for corner, xy in enumerate(prompts.boxes[row].reshape(2, 2)):
            tokens.append(code(xy) + sam.state[f"prompt_encoder.point_embeddings.{2 + corner}.weight"][0])
    return torch.stack(tokens)


def dense_prompt(sam: Official, prompts: Prompts, row: int) -> Tensor:
    if prompts.masks is None:
        return sam.state["prompt_encoder.no_mask_embed.weight"].reshape(1, -1, 1, 1)
    name = "prompt_encoder.mask_downscaling"
    x = sam.conv(f"{name}.0", prompts.masks[row : row + 1], stride=2)
    x = F.gelu(sam.norm_channels(f"{name}.1", x))
    x = F.gelu(sam.norm_channels(f"{name}.4", sam.conv(f"{name}.3", x, stride=2)))
    return sam.conv(f"{name}.6", x)


def mask_decoder(sam: Official, embedding: Tensor, prompts: Prompts, row: int) -> tuple[Tensor, Tensor]:
    """All four mask logits (4, 4g, 4g) and predicted IoUs (4,) of one prompt."""
    centres = (torch.arange(GRID) + 0.5) / GRID
    grid = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), -1)
    image_pe = sam.positions(grid).reshape(GRID * GRID, -1)
    image = (embedding + dense_prompt(sam, prompts, row)).flatten(2)[0].T
    tokens = torch.cat(
        [
            sam.state["mask_decoder.iou_token.weight"],
            sam.state["mask_decoder.mask_tokens.weight"],
            sparse_prompt(sam, prompts, row),
        ]
    )
    name, x = "mask_decoder.transformer", tokens
    for layer in range(2):
        block = f"{name}.layers.{layer}"
        q = x if layer == 0 else x + tokens
        attended = decoder_attention(sam, f"{block}.self_attn", q, q, x)
        x = sam.norm(f"{block}.norm1", attended if layer == 0 else x + attended, 1e-5)
        attended = decoder_attention(
            sam, f"{block}.cross_attn_token_to_image", x + tokens, image + image_pe, image
        )
        x = sam.norm(f"{block}.norm2", x + attended, 1e-5)
        hidden = sam.linear(f"{block}.mlp.lin1", x).relu()
        x = sam.norm(f"{block}.norm3", x + sam.linear(f"{block}.mlp.lin2", hidden), 1e-5)
        attended = decoder_attention(
            sam, f"{block}.cross_attn_image_to_token", image + image_pe, x + tokens, x
        )
        image = sam.norm(f"{block}.norm4", image + attended, 1e-5)
    attended = decoder_attention(
        sam, f"{name}.final_attn_token_to_image", x + tokens, image + image_pe, image
    )
    x = sam.norm(f"{name}.norm_final_attn", x + attended, 1e-5)

    large = image.T.reshape(1, -1, GRID, GRID)
    up = "mask_decoder.output_upscaling"
    large = F.gelu(sam.norm_channels(f"{up}.1", sam.up(f"{up}.0", large)))
    large = F.gelu(sam.up(f"{up}.3", large))[0]
    weights = [sam.mlp(f"mask_decoder.output_hypernetworks_mlps.{i}", x[1 + i]) for i in range(4)]
    logits = torch.einsum("mc,chw->mhw", torch.stack(weights), large)
    return logits, sam.mlp("mask_decoder.iou_prediction_head", x[0])


def some_prompts(kind: str) -> Prompts:
    random = torch.Generator().manual_seed(5)
    corners = torch.rand((3, 2, 2), generator=random) * 60
    boxes = torch.cat([corners.amin(1), corners.amax(1) + 3], 1)
    points = torch.rand((3, 2, 2), generator=random) * 64
    labels = torch.tensor([[1, 0], [1, 1], [0, 1]])
    masks = torch.randn((3, 1, 4 * GRID, 4 * GRID), generator=random)
    return {
        "boxes": Prompts(boxes=boxes),
        "points": Prompts(points=points, labels=labels),
        "boxes and points": Prompts(boxes, points, labels),
        "boxes and masks": Prompts(boxes=boxes, masks=masks),
        "points and masks": Prompts(points=points, labels=labels, masks=masks),
    }[kind]


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
    embedding, expected = embed(model, pixels).main, image_encoder(sam, pixels)
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
