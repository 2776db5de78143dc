"""Exported graphs against the audited model: files, masks, codes, and everything that can go wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tests.full_disk import files_end_at

from saqsam.api import load, quantize
from saqsam.errors import CheckpointError, InvariantError, SaqsamError, UsageError
from saqsam.export.api import export_file
from saqsam.export.cases import generated_cases
from saqsam.export.codes import Shares, decoder_codes, encoder_codes, total_share
from saqsam.export.write import check_files, export_onnx
from saqsam.families.framing import preprocess
from saqsam.graphs.build import build_graphs
from saqsam.graphs.portable import Portable
from saqsam.graphs.source import Source
from saqsam.pack.convert import from_packed
from saqsam.pack.file import read_packed
from saqsam.prompts.prompts import Prompts
from saqsam.recipe import load_recipe
from saqsam.recipe.fields import Override
from saqsam.sam import Sam
from saqsam.scenes import write_scenes
from saqsam.segment.predictor import decode, embed, upscale_masks


@dataclass(frozen=True)
class Packed:
    """A quantized nano as a file, and as the model that the file gives back."""

    path: Path
    sam: Sam


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"), 3, 11).parent


@pytest.fixture(scope="session", params=["ptq4sam-s-w4a4", "rtn-w8a8"])
def packed(request: pytest.FixtureRequest, packed_nano: Callable[[str], Path]) -> Packed:
    path = packed_nano(request.param)
    return Packed(path, load(path))


@pytest.fixture(scope="session")
def exported(packed: Packed, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("export") / "out"
    images, annotations = scenes / "images", scenes / "instances.json"
    export_file(packed.path, directory, images=images, annotations=annotations, limit=2)
    return directory


def test_products_with_float_inputs_stay_exact(scenes: Path, tmp_path: Path) -> None:
    """ONNX Runtime rounds a float operand to 8 bits where the other comes from ``DequantizeLinear``."""
    floats = {f"*.{layer}:input": Override(keep_float=True) for layer in ("qkv", "lin1", "q_proj")}
    recipe = replace(load_recipe("rtn-w4a8"), overrides=floats)
    path = tmp_path / "nano.safetensors"
    quantize(load("nano"), recipe, scenes / "images", scenes / "instances.json").save(path)
    export_file(path, tmp_path / "out", limit=1)
    parity = json.loads((tmp_path / "out" / "parity.json").read_text())["parity"]
    assert parity["equal_codes"] >= 0.999
    assert parity["decoder_equal_codes"] >= 0.97
    encoder = onnx.load(tmp_path / "out" / "encoder.onnx")
    assert onnx.TensorProto.UINT4 in {one.data_type for one in encoder.graph.initializer}


def run_decoder(directory: Path, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(directory / "decoder.onnx", providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def prompt_inputs(embedding: np.ndarray, size: tuple[int, int], points: np.ndarray) -> dict[str, np.ndarray]:
    low = 4 * embedding.shape[-1]
    return {
        "image_embeddings": embedding,
        "point_coords": points,
        "mask_input": np.zeros((1, 1, low, low), np.float32),
        "has_mask_input": np.zeros(1, np.float32),
        "orig_im_size": np.array(size, np.float32),
    }


def test_the_decoder_file_has_the_names_that_users_of_sam_know(exported: Path) -> None:
    graph = onnx.load(exported / "decoder.onnx").graph
    assert {one.name for one in graph.input} == {
        "image_embeddings",
        "point_coords",
        "point_labels",
        "mask_input",
        "has_mask_input",
        "orig_im_size",
    }
    assert [one.name for one in graph.output] == ["masks", "iou_predictions", "low_res_masks"]
    assert [one.name for one in onnx.load(exported / "encoder.onnx").graph.input] == ["images"]


def test_boxes_give_the_models_masks_at_image_size(packed: Packed, exported: Path) -> None:
    """Run as a stranger would: ONNX Runtime, two files, box corners labelled 2 and 3."""
    encoder = onnxruntime.InferenceSession(exported / "encoder.onnx", providers=["CPUExecutionProvider"])
    case = generated_cases(1)[0]
    pixel_values, frame = preprocess(packed.sam.model, case.pixels)
    expected = embed(packed.sam.model, pixel_values)
    found = encoder.run(None, {"images": pixel_values.numpy()})[0]
    assert found.shape == expected.main.shape
    assert np.corrcoef(found.ravel(), expected.main.numpy().ravel())[0, 1] > 0.995
    assert case.prompts.boxes is not None
    corners = frame.scale_boxes(case.prompts.boxes).reshape(-1, 2, 2).numpy()
    labels = np.tile(np.array([2, 3], np.float32), (len(corners), 1))
    inputs = prompt_inputs(expected.main.numpy(), frame.original, corners)
    outputs = run_decoder(exported, point_labels=labels, **inputs)
    logits, scores = decode(packed.sam.model, expected, case.prompts, frame)
    assert outputs["masks"].shape == (len(corners), 4, *frame.original)
    np.testing.assert_allclose(outputs["low_res_masks"][:, :1], logits, atol=0.3)
    np.testing.assert_allclose(outputs["iou_predictions"][:, :1], scores, atol=0.02)
    masks = upscale_masks(logits, frame).numpy()
    assert np.mean((outputs["masks"][:, :1] > 0) == masks) > 0.999


def test_clicks_padding_and_mask_prompts_mean_what_they_mean_to_the_model(
    packed: Packed, exported: Path
) -> None:
    case = generated_cases(1)[0]
    pixel_values, frame = preprocess(packed.sam.model, case.pixels)
    embedding = embed(packed.sam.model, pixel_values)
    side = frame.original[1]
    points = torch.tensor([[[40.0, 50.0], [90.0, 20.0]], [[64.0, 64.0], [5.0, 100.0]]])
    labels = torch.tensor([[1, 0], [0, 1]])
    grid = torch.linspace(-8, 8, 4 * embedding.main.shape[-1])
    masks = (grid[:, None] + grid[None, :])[None, None].repeat(2, 1, 1, 1)
    masks[1] *= -1
    prompts = Prompts(points=points, labels=labels, masks=masks)
    logits, _ = decode(packed.sam.model, embedding, prompts, frame, multimask_output=True)
    padded = np.concatenate([frame.scale_points(points).numpy(), np.zeros((2, 1, 2), np.float32)], axis=1)
    inputs = prompt_inputs(embedding.main.numpy(), (side, side), padded)
    inputs["mask_input"], inputs["has_mask_input"] = masks.numpy(), np.ones(1, np.float32)
    kinds = np.array([[1, 0, -1], [0, 1, -1]], np.float32)
    outputs = run_decoder(exported, point_labels=kinds, **inputs)
    np.testing.assert_allclose(outputs["low_res_masks"][:, 1:], logits, atol=0.3)


def test_every_block_computes_the_same_codes(packed: Packed) -> None:
    model, source = packed.sam.model, Source(read_packed(packed.path))
    shares: Shares = {}
    for case in generated_cases(3):  # on some images a rounding error moves a code, and it those after it
        pixel_values, frame = preprocess(model, case.pixels)
        for site, (equal, total) in encoder_codes(model, source, Portable, pixel_values, 21).items():
            before = shares.get(site, (0, 0))
            shares[site] = before[0] + equal, before[1] + total
    decoder = decoder_codes(model, source, Portable, embed(model, pixel_values), case.prompts, frame, 21)
    assert shares.keys() | decoder.keys() == source.packed.activations.keys()
    assert total_share(shares) > 0.9995
    assert min(equal / total for equal, total in shares.values()) > 0.99
    # The decoder is not compared block by block: one code that differs is followed by others.
    assert total_share(decoder) > 0.98


def test_weights_are_integers_and_the_files_are_as_small_as_their_types_allow(
    packed: Packed, exported: Path
) -> None:
    bits = 4 if "w4a4" in packed.sam.name or packed.sam.bits == "w4a4" else 8
    expected = onnx.TensorProto.UINT4 if bits == 4 else onnx.TensorProto.UINT8
    source = read_packed(packed.path)
    matrices = [
        tensor
        for name in ("encoder.onnx", "decoder.onnx")
        for tensor in onnx.load(exported / name).graph.initializer
        if tensor.data_type == expected and len(tensor.dims) >= 2
    ]
    assert len(matrices) == len(source.weights)
    stored = sum(len(tensor.raw_data) for tensor in matrices)
    assert stored == sum(-(-weight.codes.numel() * bits // 8) for weight in source.weights.values())
    total = sum((exported / name).stat().st_size for name in ("encoder.onnx", "decoder.onnx"))
    assert total < packed.path.stat().st_size + 400_000  # what thousands of nodes and their names take


def test_parity_is_written_and_holds(exported: Path) -> None:
    proof = check_files(exported)
    parity = proof["parity"]
    assert proof["verified"] is True
    assert parity["decoder_mask_iou"] >= 0.999
    assert parity["equal_codes"] >= 0.9995
    assert parity["mask_iou"] >= min(0.999, parity["repeatability"] - 0.03)
    assert parity["prompts"] >= 2


def test_a_changed_file_is_noticed(exported: Path, tmp_path: Path) -> None:
    for name in ("encoder.onnx", "decoder.onnx", "parity.json"):
        (tmp_path / name).write_bytes((exported / name).read_bytes())
    content = bytearray((tmp_path / "decoder.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "decoder.onnx").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"decoder\.onnx: is not the file that was verified"):
        check_files(tmp_path)
    (tmp_path / "parity.json").write_text("{")
    with pytest.raises(CheckpointError, match="missing or damaged"):
        check_files(tmp_path)


def test_graphs_of_another_model_are_refused_and_nothing_is_written(packed: Packed, tmp_path: Path) -> None:
    """The proof has to notice one wrong scale among two hundred."""
    contents = read_packed(packed.path)
    model, _ = from_packed(contents, packed.path)
    weight = contents.weights["mask_decoder.transformer.layers.1.mlp.lin1"]
    weight.scale[3] *= 1.5
    with pytest.raises(InvariantError, match="not the audited model"):
        export_onnx(contents, model, tmp_path / "out", generated_cases(1))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("opset", [22, 23])
def test_later_operator_sets_give_the_same_model(packed: Packed, tmp_path: Path, opset: int) -> None:
    done = export_file(packed.path, tmp_path / "out", opset=opset, limit=1)
    assert done.parity is not None
    assert done.parity.decoder_mask_iou >= 0.999
    assert onnx.load(tmp_path / "out" / "encoder.onnx").opset_import[0].version == opset


@pytest.mark.parametrize("opset", [17, 20, 99])
def test_other_operator_sets_are_refused(packed: Packed, tmp_path: Path, opset: int) -> None:
    with pytest.raises(UsageError, match=f"opset {opset}: graphs are written in opset 21, 22, 23"):
        export_file(packed.path, tmp_path / "out", opset=opset)
    with pytest.raises(UsageError, match="opset"):
        build_graphs(read_packed(packed.path), opset, Portable)
    assert not (tmp_path / "out").exists()


def test_a_directory_that_cannot_be_made_is_named(packed: Packed, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SaqsamError, match="cannot be written") as caught:
        export_file(packed.path, tmp_path / "file" / "out", limit=1, verify=False)
    assert caught.value.exit_code == 1


def test_a_full_disk_leaves_nothing(exported: Path, packed: Packed, tmp_path: Path) -> None:
    largest = max(path.stat().st_size for path in exported.iterdir())
    with files_end_at(largest - 1), pytest.raises(SaqsamError, match="no space left"):
        export_file(packed.path, tmp_path / "out", verify=False)
    assert list(tmp_path.iterdir()) == []


def test_a_float_model_and_a_missing_package_are_explained(
    packed: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"nothing")
    with pytest.raises(UsageError, match="not a packed file"):
        export_file(other, tmp_path / "out")
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r"pip install 'saqsam\[onnx\]'"):
        export_file(packed.path, tmp_path / "out")


def test_without_verification_the_proof_says_so(packed: Packed, tmp_path: Path) -> None:
    export_file(packed.path, tmp_path / "out", verify=False)
    proof = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert proof["verified"] is False
    assert proof["parity"] is None
