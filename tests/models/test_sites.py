"""The site table: counts of the papers, every parameter owned once, and quantizers that only observe."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from transformers import SamConfig, SamModel

from saqsam.calibrate.observers import observer_for
from saqsam.errors import RecipeError
from saqsam.grids.log2 import Log2
from saqsam.models.attach import all_quantizers, attach
from saqsam.models.plan import plan_sites
from saqsam.models.sites import (
    ATTENTION,
    DECODER,
    ENCODER,
    WEIGHT,
    decoder_attention_paths,
    encoder_attention_paths,
    float_parts,
    quantized_sites,
)
from saqsam.recipe import Override, Ranges, Recipe, load_recipe

PUBLISHED = {  # hidden size, blocks, heads, global attentions, weights, activations
    "SAM-B": (768, 12, 12, (2, 5, 8, 11), 82, 158),
    "SAM-L": (1024, 24, 16, (5, 11, 17, 23), 130, 254),
    "SAM-H": (1280, 32, 16, (7, 15, 23, 31), 162, 318),
}


def published(name: str) -> SamModel:
    """The architecture without its numbers."""
    width, depth, heads, wide, _, _ = PUBLISHED[name]
    config = SamConfig(
        vision_config={
            "hidden_size": width,
            "num_hidden_layers": depth,
            "num_attention_heads": heads,
            "global_attn_indexes": list(wide),
            "mlp_dim": 4 * width,
        }
    )
    with torch.device("meta"):
        return SamModel(config)


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_those_of_the_papers(name: str) -> None:
    sites = quantized_sites(published(name))
    weights = [site for site in sites if site.role == WEIGHT]
    assert (len(weights), len(sites) - len(weights)) == PUBLISHED[name][4:]
    assert len({site.name for site in sites}) == len(sites)
    assert sum(site.part == DECODER for site in weights) == 32
    assert sum(site.part == DECODER for site in sites) == 32 + 60
    assert {site.part for site in sites} == {ENCODER, DECODER}


def owners(model: SamModel) -> dict[str, list[str]]:
    """Of every parameter, which weights and float parts claim it."""
    claims = [f"{site.path}.weight" for site in quantized_sites(model) if site.role == WEIGHT]
    claims += [part.path for part in float_parts(model)]
    return {
        name: [claim for claim in claims if name == claim or name.startswith(f"{claim}.")]
        for name, _ in model.named_parameters()
    }


@pytest.mark.parametrize("name", [*PUBLISHED, "nano", "tiny"])
def test_every_parameter_has_one_owner(name: str, nano: SamModel, tiny_sam: SamModel) -> None:
    small = {"nano": nano, "tiny": tiny_sam}
    model = small[name] if name in small else published(name)
    assert {parameter: claims for parameter, claims in owners(model).items() if len(claims) != 1} == {}
    known = {parameter for parameter, _ in model.named_parameters()}
    for part in float_parts(model):
        assert part.reason
        assert any(one == part.path or one.startswith(f"{part.path}.") for one in known)


def test_attentions_are_listed_in_the_order_in_which_they_run(nano: SamModel) -> None:
    for paths, run in (
        (encoder_attention_paths(nano), lambda: nano.vision_encoder(torch.zeros(1, 3, 128, 128))),
        (
            decoder_attention_paths(nano),
            lambda: nano(
                image_embeddings=torch.zeros(1, 64, 16, 16), input_boxes=torch.tensor([[[1.0, 1, 9, 9]]])
            ),
        ),
    ):
        called: list[str] = []
        handles = [
            nano.get_submodule(path).register_forward_hook(
                lambda m, i, o, path=path, called=called: called.append(path)
            )
            for path in paths
        ]
        run()
        for handle in handles:
            handle.remove()
        assert tuple(called) == paths


def prompts(side: float, grid: int) -> dict[str, dict[str, Tensor]]:
    boxes = torch.tensor([[[0.1, 0.2, 0.6, 0.7], [0.3, 0.3, 0.9, 0.8]]]) * side
    points = torch.tensor([[[[0.3, 0.4]], [[0.5, 0.6]]]]) * side
    mask = torch.randn(1, 1, 4 * grid, 4 * grid, generator=torch.Generator().manual_seed(1)) * 5
    return {
        "boxes": {"input_boxes": boxes},
        "points": {"input_points": points, "input_labels": torch.tensor([[[1], [0]]])},
        "mask": {"input_boxes": boxes[:, :1], "input_masks": mask},
    }


@pytest.mark.parametrize("recipe", ["rtn-w4a4", "ptq4sam-s-w4a4"])
@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("kind", ["boxes", "points", "mask"])
@pytest.mark.parametrize("name", ["nano", "tiny"])
def test_observing_changes_nothing(
    name: str, kind: str, watched: bool, recipe: str, nano: SamModel, tiny_sam: SamModel
) -> None:
    """All 158 quantizers in place and looking on: the untouched SamModel's outputs."""
    model = {"nano": nano, "tiny": tiny_sam}[name]
    config = model.config
    side, grid = config.vision_config.image_size, config.prompt_encoder_config.image_embedding_size
    pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    given = prompts(side, grid)[kind]
    changed = copy.deepcopy(model)
    attach(changed, plan_sites(changed, load_recipe(recipe)))
    quantizers = all_quantizers(changed)
    assert len(quantizers) == len(quantized_sites(model))
    for quantizer in quantizers.values() if watched else ():
        quantizer.observer = observer_for(quantizer, Ranges())
    with torch.no_grad():
        before, after = (one(pixel_values=pixels, **given) for one in (model, changed))
    for name_of in ("pred_masks", "iou_scores"):
        difference = (after[name_of] - before[name_of]).abs().max() / before[name_of].abs().max()
        assert float(difference) < 1e-4
    assert isinstance(changed, SamModel)
    names = {key for key, _ in changed.named_parameters()}
    assert names == {key for key, _ in model.named_parameters()}


def test_the_last_override_that_matches_wins_and_none_is_ignored(nano: SamModel) -> None:
    key = "mask_decoder.transformer.layers.0.self_attn:key"
    recipe = Recipe(
        name="test",
        overrides={
            "mask_decoder.*": Override(bits=6),
            "*:key": Override(bits=8, ranges=Ranges(method="mse")),
            "vision_encoder.neck.conv1:*": Override(keep_float=True),
            "*.final_attn_token_to_image:attention": Override(grid="log2"),
        },
    )
    plan = plan_sites(nano, recipe)
    assert (plan[key].bits, plan[key].ranges.method) == (8, "mse")
    assert plan["mask_decoder.transformer.layers.0.self_attn:query"].bits == 6
    assert plan["vision_encoder.layers.0.attn:key"].bits == 8
    assert plan["vision_encoder.layers.0.attn:query"].bits == 4
    assert "vision_encoder.neck.conv1:weight" not in plan
    assert "vision_encoder.neck.conv2:weight" in plan
    logarithmic = [name for name, choice in plan.items() if choice.kind is Log2]
    assert logarithmic == ["mask_decoder.transformer.final_attn_token_to_image:attention"]
    with pytest.raises(RecipeError, match="matches no site"):
        plan_sites(nano, Recipe(name="test", overrides={"*.q_porj:*": Override(bits=8)}))
    with pytest.raises(RecipeError, match="cannot use the log2 grid"):
        plan_sites(nano, Recipe(name="test", overrides={key: Override(grid="log2")}))


def test_parts_have_their_own_bits_and_only_maps_the_logarithmic_grid(nano: SamModel) -> None:
    plan = plan_sites(
        nano, load_recipe("saq-sam-star", settings=["encoder.weights=3", "decoder.activations=7"])
    )
    for choice in plan.values():
        weight, encoder = choice.site.role == WEIGHT, choice.site.part == ENCODER
        expected = {(True, True): 3, (False, False): 7}.get((weight, encoder), 4)
        assert choice.bits == expected
        assert (choice.kind is Log2) == (choice.site.role == ATTENTION)
