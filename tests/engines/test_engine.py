"""The integer engine: the simulation's codes, its masks, and exact products on any processor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saqsam.api import evaluate, load
from saqsam.errors import CorruptCheckpoint, ImageError, PromptError, UsageError
from saqsam.export.cases import generated_cases
from saqsam.export.codes import decoder_codes, encoder_codes, total_share
from saqsam.export.parity import check_parity, mask_ious
from saqsam.families.framing import preprocess
from saqsam.graphs.exactness import Exactness, signed_is_exact
from saqsam.graphs.graph import Graph
from saqsam.graphs.integer import Integer
from saqsam.graphs.session import open_session, run_session
from saqsam.graphs.source import Source
from saqsam.grids.affine import affine_codes, affine_values
from saqsam.pack.file import PackedActivation, PackedModel, PackedWeight, read_packed
from saqsam.sam import Sam
from saqsam.scenes import write_scenes
from saqsam.segment.predictor import embed


@dataclass(frozen=True)
class Both:
    """One packed file on both engines."""

    path: Path
    simulated: Sam
    integer: Sam


class NoVnni(Exactness):
    """A processor that adds pairs of products in 16 bits, as x86 without VNNI does."""

    def signed(self, largest_code: int, largest_weight: int) -> bool:
        return 2 * largest_code * largest_weight <= 32767


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"), 3, 12).parent


@pytest.fixture(scope="session", params=["ptq4sam-s-w4a4", "rtn-w8a8", "rtn-w4a8"])
def both(request: pytest.FixtureRequest, packed_nano: Callable[[str], Path]) -> Both:
    path = packed_nano(request.param)
    return Both(path, load(path), load(path, engine="onnxruntime"))


@pytest.mark.parametrize("exactness", [Exactness(), NoVnni()], ids=["this machine", "without VNNI"])
def test_every_block_computes_the_simulations_codes(both: Both, exactness: Exactness) -> None:
    def maker(graph: Graph, source: Source) -> Integer:
        return Integer(graph, source, exactness)

    model, source = both.simulated.model, Source(read_packed(both.path))
    case = generated_cases(1)[0]
    pixel_values, frame = preprocess(model, case.pixels)
    shares = encoder_codes(model, source, maker, pixel_values, 21)
    decoder = decoder_codes(model, source, maker, embed(model, pixel_values), case.prompts, frame, 21)
    assert shares.keys() | decoder.keys() == source.packed.activations.keys()
    assert total_share(shares) > 0.9995
    assert min(equal / total for equal, total in shares.values()) > 0.99
    # The decoder is not compared block by block: one code that differs is followed by others.
    assert total_share(decoder) > 0.98


def test_masks_are_the_simulations(both: Both) -> None:
    def maker(graph: Graph, source: Source) -> Integer:
        return Integer(graph, source, Exactness())

    parity = check_parity(
        both.simulated.model,
        both.integer.model,  # type: ignore[arg-type]
        generated_cases(4),
        Source(read_packed(both.path)),
        maker,
        21,
    )
    assert parity.decoder_mask_iou >= 0.999


def test_it_segments_and_is_evaluated_like_any_model(both: Both, scenes: Path) -> None:
    case = generated_cases(1)[0]
    points = [[60, 60], [30, 90]]
    found = both.integer.segment(case.pixels, points=points)
    expected = both.simulated.segment(case.pixels, points=points)
    assert found.masks.shape == expected.masks.shape
    agreement = mask_ious(*(torch.from_numpy(one.masks)[:, None] for one in (found, expected)))
    assert np.mean(agreement) > 0.9
    several = both.integer.segment(case.pixels, points=points, multimask_output=True)
    assert several.masks.shape == expected.masks.shape
    result = evaluate(
        both.integer, scenes / "images", scenes / "instances.json", reference=both.simulated, limit=2
    )
    assert result.bits == both.simulated.bits
    assert result.agreement is not None
    assert result.agreement > 0.95


def test_mask_prompts_go_through(both: Both) -> None:
    case = generated_cases(1)[0]
    model = both.simulated.model
    pixel_values, frame = preprocess(model, case.pixels)
    embedding = embed(model, pixel_values).main
    assert case.prompts.boxes is not None
    boxes = frame.scale_boxes(case.prompts.boxes[:2])
    masks = torch.randn(2, 1, *(2 * [4 * embedding.shape[-1]]), generator=torch.Generator().manual_seed(0))
    arguments = {
        "image_embeddings": embedding.expand(2, -1, -1, -1),
        "input_boxes": boxes[:, None],
        "input_masks": masks,
    }
    expected = model(**arguments)
    found = both.integer.model(**arguments)
    torch.testing.assert_close(found.pred_masks, expected.pred_masks, atol=0.3, rtol=0)
    torch.testing.assert_close(found.iou_scores, expected.iou_scores, atol=0.02, rtol=0)


@settings(max_examples=25, deadline=None)
@given(
    weight_bits=st.integers(2, 8),
    code_bits=st.integers(2, 8),
    vnni=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_a_linear_layer_is_exact_in_integers(weight_bits: int, code_bits: int, vnni: bool, seed: int) -> None:
    """Against 64-bit integers: with scales that are powers of two, every output must be equal."""
    generator = torch.Generator().manual_seed(seed)
    inner, out = 40, 24
    weight = PackedWeight(
        torch.randint(0, 2**weight_bits, (out, inner), generator=generator).to(torch.uint8),
        torch.full((out,), 0.5),
        torch.randint(0, 2**weight_bits, (out,), generator=generator).to(torch.uint8),
        weight_bits,
    )
    zero_point = int(torch.randint(0, 2**code_bits, (1,), generator=generator))
    grid = PackedActivation("affine", code_bits, 0.25, zero_point, 0)
    config = {part: {} for part in ("vision_config", "prompt_encoder_config", "mask_decoder_config")}
    source = Source(PackedModel(config, {}, {"layer": weight}, {"layer:input": grid}, {}, {}))
    graph = Graph("layer", 21)
    arithmetic = Integer(graph, source, Exactness() if vnni else NoVnni())
    x = torch.randn(7, inner, generator=generator) * 40
    graph.output("y", arithmetic.linear(graph.input("x", (7, inner)), "layer"), None)
    session = open_session(graph.model({}).SerializeToString(), "layer")
    found = run_session(session, "layer", {"x": x.numpy()})[0]
    scale, origin = torch.tensor(0.25), torch.tensor(float(zero_point))
    values = affine_values(affine_codes(x, scale, origin, code_bits), scale, origin).double()
    matrix = (weight.codes.double() - weight.zero_point.double()[:, None]) * 0.5
    np.testing.assert_array_equal(found, (values @ matrix.T).numpy())


def test_the_machine_is_asked_and_never_wrong() -> None:
    """Sixteen bits hold two products of a byte and a 6-bit weight, so these are exact everywhere."""
    assert signed_is_exact(255, 63)
    assert signed_is_exact(15, 15)
    assert not Exactness().signed(255, 200)


@pytest.mark.parametrize(
    ("source", "engine", "device", "message"),
    [
        ("nano", "onnxruntime", "cpu", "runs packed files"),
        ("nano", "tensorrt", "cpu", "the engines are auto, torch, onnxruntime"),
        ("nano", "onnxruntime", "cuda", "cuda.*cpu"),
    ],
)
def test_what_the_engine_cannot_do_is_said(source: str, engine: str, device: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(source, device=device, engine=engine)


def test_a_missing_package_names_the_extra(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(UsageError, match=r"pip install 'saqsam\[onnx\]'"):
        load(both.path, engine="onnxruntime")


def test_a_damaged_file_is_refused(both: Both, tmp_path: Path) -> None:
    content = bytearray(both.path.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "damaged").write_bytes(content)
    with pytest.raises(CorruptCheckpoint):
        load(tmp_path / "damaged", engine="onnxruntime")


def test_input_of_another_size_and_no_prompt_are_refused(both: Both) -> None:
    with pytest.raises(ImageError, match="expected a model input"):
        both.integer.model.vision_encoder(torch.zeros(1, 3, 64, 64))
    with pytest.raises(PromptError, match="neither a box, a point nor a mask"):
        both.integer.model(image_embeddings=torch.zeros(1, 64, 16, 16))


def test_it_is_saved_and_inspected_as_the_packed_file_it_is(both: Both, tmp_path: Path) -> None:
    both.integer.save(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == both.path.read_bytes()
    assert both.integer.inspect()["sites"] == both.simulated.inspect()["sites"]
    with pytest.raises(UsageError, match="computes on the cpu"):
        both.integer.to("cuda")
