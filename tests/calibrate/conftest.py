"""Activations of the shipped model, whole, by site."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from saqsam.calibrate.images import CalibrationImage, pixels_of
from saqsam.models.attach import all_quantizers, attach
from saqsam.models.plan import plan_sites
from saqsam.recipe import load_recipe
from saqsam.segment.predictor import decode, embed
from saqsam.shipped.embedded import embedded_sam

BLOCK, LAYER = "vision_encoder.layers.1", "mask_decoder.transformer.layers.0"
SITES = (
    f"{BLOCK}.attn.qkv:input",
    f"{BLOCK}.attn:query",
    f"{BLOCK}.attn:value",
    f"{BLOCK}.mlp.lin1:input",
    f"{BLOCK}.mlp.lin2:input",
    f"{BLOCK}.attn:attention",
    "vision_encoder.neck.conv2:input",
    f"{LAYER}.cross_attn_token_to_image:key",
    f"{LAYER}.cross_attn_token_to_image:attention",
    f"{LAYER}.self_attn:attention",
    f"{LAYER}.mlp.lin2:input",
    f"{LAYER}.cross_attn_image_to_token:query",
)
Seen = dict[str, list[tuple[Tensor, Tensor | None]]]


class Keep:
    """An observer that keeps what it is shown."""

    def __init__(self) -> None:
        self.shown: list[tuple[Tensor, Tensor | None]] = []

    def update(self, x: Tensor, value: Tensor | None) -> None:
        self.shown.append((x.clone(), value))


def raw_activations(name: str, scenes: tuple[CalibrationImage, ...]) -> Seen:
    """What passes the listed sites of a float model on four scenes, one entry for each call."""
    model = embedded_sam(name)
    attach(model, plan_sites(model, load_recipe("rtn-w4a4")))
    keepers = {site.name: (quantizer, Keep()) for site, quantizer in all_quantizers(model).items()}
    for site in SITES:
        quantizer, keeper = keepers[site]
        quantizer.observer = keeper
    for scene in scenes[:4]:
        pixels, frame = pixels_of(model, scene)
        decode(model, embed(model, pixels), scene.prompts, frame)
    return {site: keepers[site][1].shown for site in SITES}


@pytest.fixture(scope="session")
def seen(scenes: tuple[CalibrationImage, ...]) -> Seen:
    """Of nano."""
    return raw_activations("nano", scenes)


@pytest.fixture(scope="session")
def seen_with_outliers(scenes: tuple[CalibrationImage, ...]) -> Seen:
    """Of nano-outliers."""
    return raw_activations("nano-outliers", scenes)


@pytest.fixture(scope="session")
def tensors(seen: Seen, seen_with_outliers: Seen) -> dict[str, Tensor]:
    """Twenty thousand values of each kind of activation, and of made-up ones with heavy tails."""
    draw = torch.Generator().manual_seed(11)
    normal = torch.randn(20_000, generator=draw)
    found = {site: torch.cat([x.flatten() for x, _ in calls]) for site, calls in seen.items()}
    key = f"{LAYER}.cross_attn_token_to_image:key"
    found["key with outliers"] = torch.cat([x.flatten() for x, _ in seen_with_outliers[key]])
    found |= {
        "normal": normal,
        "laplace": normal.sign() * -torch.rand(20_000, generator=draw).log(),
        "heavy tails": normal / torch.rand(20_000, generator=draw).sqrt(),
        "lognormal": (1.5 * normal).exp(),
        "shifted": normal + 6,
        "all negative": -normal.abs() - 2,
        "few far values": torch.cat([normal, torch.full((20,), 40.0), torch.full((20,), -25.0)]),
        "two humps": normal + 8 * normal.roll(1).sign(),
    }
    return {name: x[torch.linspace(0, len(x) - 1, min(len(x), 20_000)).long()] for name, x in found.items()}
