"""Sharing the image's part of decoding changes no answer: compared with transformers' own decoder."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import SamModel

from saqsam.families.embedding import Embedding
from saqsam.families.shared_decoder import ImageDecoder, can_share
from saqsam.images.frame import Frame
from saqsam.models.attach import all_quantizers
from saqsam.modules.quantizer import Quantizer
from saqsam.prompts.prompts import Prompts
from saqsam.segment.predictor import decode, low_res_side

KINDS = (
    ("boxes",),
    ("points",),
    ("boxes", "points"),
    ("masks",),
    ("boxes", "masks"),
    ("points", "masks"),
    ("boxes", "points", "masks"),
)


def prompts_of(kinds: tuple[str, ...], count: int, side: int, seed: int = 0) -> Prompts:
    """Random prompts inside the scene: boxes, three clicks each, mask logits."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 80
    extent = torch.rand(count, 2, generator=generator) * 30 + 4
    fields: dict[str, Any] = {}
    if "boxes" in kinds:
        fields["boxes"] = torch.cat([corner, corner + extent], dim=1)
    if "points" in kinds:
        fields["points"] = torch.rand(count, 3, 2, generator=generator) * 90
        fields["labels"] = torch.tensor([1, 0, 1]).expand(count, -1)
    if "masks" in kinds:
        fields["masks"] = torch.randn(count, 1, side, side, generator=generator) * 4
    return Prompts(**fields)


def transformers_answer(
    model: SamModel, embeddings: Embedding, prompts: Prompts, frame: Frame, multimask: bool
) -> tuple[Tensor, Tensor]:
    """One call of SamModel for each prompt: the slowest and plainest way."""
    logits, scores = [], []
    for row in range(len(prompts)):
        one = prompts[row : row + 1]
        output = model(
            image_embeddings=embeddings.main,
            input_boxes=None if one.boxes is None else frame.scale_boxes(one.boxes)[None].to(model.dtype),
            input_points=None if one.points is None else frame.scale_points(one.points)[None].to(model.dtype),
            input_labels=None if one.labels is None else one.labels[None],
            input_masks=None if one.masks is None else one.masks.to(model.dtype),
            multimask_output=multimask,
        )
        logits.append(output.pred_masks[0])
        scores.append(output.iou_scores[0])
    return torch.cat(logits), torch.cat(scores)


def shared_answer(
    model: SamModel, embeddings: Embedding, prompts: Prompts, frame: Frame, multimask: bool
) -> tuple[Tensor, Tensor]:
    assert can_share(model)
    logits, scores = decode(model, embeddings, prompts, frame, multimask_output=multimask)
    return logits, scores


def assert_logits_close(found: Tensor, expected: Tensor) -> None:
    """Up to 1e-5 of the largest logit: float32 rounding, which differs from one processor to the next."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("kinds", KINDS)
def test_float_answers_are_those_of_transformers(
    encoded: Any, kinds: tuple[str, ...], multimask: bool
) -> None:
    prompts = prompts_of(kinds, 5, low_res_side(encoded.model))
    arguments = (encoded.model, encoded.embeddings, prompts, encoded.frame, multimask)
    logits, scores = shared_answer(*arguments)
    expected_logits, expected_scores = transformers_answer(*arguments)
    assert logits.shape == expected_logits.shape
    assert_logits_close(logits, expected_logits)
    torch.testing.assert_close(scores, expected_scores, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kinds", KINDS)
def test_in_double_precision_the_two_agree_to_eleven_digits(
    tiny_sam: SamModel, kinds: tuple[str, ...]
) -> None:
    """What differs in float32 is rounding: with more digits the difference vanishes."""
    model = tiny_sam.double()
    model.set_attn_implementation("sdpa")
    generator = torch.Generator().manual_seed(3)
    embeddings = Embedding(torch.randn(1, 32, 8, 8, generator=generator, dtype=torch.float64))
    prompts, frame = prompts_of(kinds, 3, low_res_side(model)), Frame((90, 120), (48, 64), 64)
    arguments = (model, embeddings, prompts, frame, True)
    for found, expected in zip(shared_answer(*arguments), transformers_answer(*arguments), strict=True):
        # Coordinates are float32 until the prompt encoder, the same on both ways.
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def codes_seen(monkeypatch: pytest.MonkeyPatch, model: SamModel, run: Callable[[], Any]) -> dict[str, Tensor]:
    """What left every quantizer while ``run`` ran; hooks would turn sharing off."""
    seen: dict[str, Tensor] = {}
    original = Quantizer.forward

    def watched(self: Quantizer, x: Tensor, value: Tensor | None = None) -> Tensor:
        result = original(self, x, value)
        assert self.site not in seen, "one chunk: each site is reached once"
        seen[self.site] = result
        return result

    with monkeypatch.context() as patch:
        patch.setattr(Quantizer, "forward", watched)
        run()
    return seen


@pytest.mark.parametrize("kinds", KINDS)
def test_sharing_is_as_exact_as_transformers(encoded: Any, kinds: tuple[str, ...]) -> None:
    """Against the same decoder in double precision, float32 errors of both ways are alike."""
    exact_model = copy.deepcopy(encoded.model).double()
    exact_model.set_attn_implementation("sdpa")
    prompts = prompts_of(kinds, 8, low_res_side(encoded.model))
    arguments = (prompts, encoded.frame, True)
    exact, _ = transformers_answer(exact_model, encoded.embeddings.map(torch.Tensor.double), *arguments)
    shared, _ = shared_answer(encoded.model, encoded.embeddings, *arguments)
    plain, _ = transformers_answer(encoded.model, encoded.embeddings, *arguments)
    errors = [float((answer.double() - exact).pow(2).mean().sqrt()) for answer in (shared, plain)]
    assert errors[0] < 1.6 * errors[1]


def by_prompt(x: Tensor, count: int) -> Tensor:
    """``(1, P, N, C)``, ``(P, 1, N, C)`` or ``(P, N, C)`` -> ``(P, N, C)``; shared: ``(1, N, C)``."""
    return x.flatten(0, 1) if x.ndim == 4 and x.shape[0] * x.shape[1] in (1, count) else x


@pytest.mark.parametrize("kinds", KINDS)
def test_quantized_decoding_makes_the_same_codes(
    monkeypatch: pytest.MonkeyPatch, quantized_encoded: Any, kinds: tuple[str, ...]
) -> None:
    model, embeddings = quantized_encoded.model, quantized_encoded.embeddings
    prompts, frame = prompts_of(kinds, 6, low_res_side(model)), quantized_encoded.frame
    shared = codes_seen(monkeypatch, model, lambda: shared_answer(model, embeddings, prompts, frame, True))
    with torch.no_grad():
        handle = model.mask_decoder.register_forward_hook(lambda module, given, output: None)
        assert not can_share(model)
        plain = codes_seen(monkeypatch, model, lambda: decode(model, embeddings, prompts, frame))
        handle.remove()
    decoder_sites = {site.name for site in all_quantizers(model) if site.path.startswith("mask_decoder")}
    assert set(shared) == set(plain)
    assert shared.keys() <= decoder_sites
    for site, expected in plain.items():
        wanted = by_prompt(expected, 6)
        assert torch.equal(by_prompt(shared[site], 6).expand_as(wanted), wanted), site


@pytest.mark.parametrize("multimask", [False, True])
def test_quantized_scores_are_equal_and_masks_cut_alike(quantized_encoded: Any, multimask: bool) -> None:
    model, prompts = quantized_encoded.model, prompts_of(("boxes",), 40, 0)
    arguments = (model, quantized_encoded.embeddings, prompts, quantized_encoded.frame, multimask)
    logits, scores = shared_answer(*arguments)
    expected_logits, expected_scores = transformers_answer(*arguments)
    assert_logits_close(logits, expected_logits)
    torch.testing.assert_close(scores, expected_scores, rtol=0, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(count=st.integers(1, 9), chunk=st.integers(1, 9), seed=st.integers(0, 50))
def test_chunks_change_memory_only(encoded: Any, count: int, chunk: int, seed: int) -> None:
    prompts = prompts_of(("boxes",), count, 0, seed)
    together, _ = decode(encoded.model, encoded.embeddings, prompts, encoded.frame, chunk=count)
    parts, _ = decode(encoded.model, encoded.embeddings, prompts, encoded.frame, chunk=chunk)
    assert_logits_close(parts, together)


def test_hooks_still_see_every_prompt(encoded: Any) -> None:
    model = copy.deepcopy(encoded.model)
    seen: list[tuple[int, ...]] = []
    attention = model.mask_decoder.transformer.layers[0].cross_attn_token_to_image
    attention.k_proj.register_forward_hook(lambda module, given, output: seen.append(tuple(output.shape)))
    decode(model, encoded.embeddings, prompts_of(("boxes",), 3, 0), encoded.frame)
    assert [shape[0] * shape[1] for shape in seen] == [3]
    assert not can_share(model)


def test_observers_still_see_every_prompt(quantized_encoded: Any) -> None:
    class Counter:
        images = 0

        def update(self, x: Tensor, value: Tensor | None) -> None:
            self.images += x.numel()

    model = copy.deepcopy(quantized_encoded.model)
    site, quantizer = next(
        (site, quantizer)
        for site, quantizer in all_quantizers(model).items()
        if site.path.endswith("layers.0.cross_attn_token_to_image") and site.role == "key"
    )
    observing = Quantizer(site.name, quantizer.bits)
    observing.observer = counter = Counter()
    model.get_submodule(site.path).quantizers.key = observing
    decode(model, quantized_encoded.embeddings, prompts_of(("boxes",), 4, 0), quantized_encoded.frame)
    keys = quantized_encoded.embeddings.main[0, 0].numel() * quantizer_channels(model, site.path)
    assert counter.images == 4 * keys


def quantizer_channels(model: SamModel, path: str) -> int:
    return int(model.get_submodule(path).k_proj.weight.shape[0])


def test_a_foreign_decoder_is_left_alone(tiny_sam: SamModel) -> None:
    class Other(type(tiny_sam.mask_decoder)):  # type: ignore[misc]
        pass

    assert can_share(tiny_sam)
    tiny_sam.mask_decoder.__class__ = Other
    assert not can_share(tiny_sam)


def test_masks_must_come_where_they_were_announced(tiny_sam: SamModel) -> None:
    decoder = ImageDecoder(tiny_sam, torch.zeros(1, 32, 8, 8), with_masks=True)
    with pytest.raises(ValueError, match="with_masks"):
        decoder(torch.zeros(2, 3, 32), None, multimask_output=False)


def test_large_embeddings_are_decoded_a_few_prompts_at_a_time() -> None:
    assert Embedding(torch.zeros(1, 256, 64, 64)).prompts_at_once() == 2
    assert Embedding(torch.zeros(1, 64, 8, 8)).prompts_at_once() == 64


def test_half_precision_models_are_decoded_too(float_sam: Any, encoded: Any) -> None:
    """In bfloat16 both ways round differently; neither is farther from float32 than the other by much."""
    half = copy.deepcopy(float_sam.model).to(torch.bfloat16)
    prompts, frame = prompts_of(("boxes",), 6, 0), encoded.frame
    exact, _ = transformers_answer(float_sam.model, encoded.embeddings, prompts, frame, False)
    embeddings = encoded.embeddings.map(torch.Tensor.bfloat16)
    shared, _ = shared_answer(half, embeddings, prompts, frame, False)
    plain, _ = transformers_answer(half, embeddings, prompts, frame, False)
    assert shared.dtype == torch.bfloat16
    errors = [float((answer.float() - exact).pow(2).mean().sqrt()) for answer in (shared, plain)]
    assert errors[0] < 1.5 * errors[1] + 0.01
