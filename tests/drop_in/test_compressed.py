"""The compressed-tensors format, read back by the library it belongs to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import SamModel

import saqsam
from saqsam.cli.app import run
from saqsam.errors import UsageError
from saqsam.recipe import load_recipe
from saqsam.recipe.settings import apply_setting
from saqsam.sam import Sam

NO_ATTENTION = [
    *(f"overrides.*:{role}.keep_float=true" for role in ("attention", "key", "query", "value")),
    "overrides.vision_encoder.neck.*.keep_float=true",
]
WEIGHTS_ONLY = [*NO_ATTENTION, "overrides.*:input.keep_float=true"]


def quantized(scenes: Path, recipe: str, settings: list[str]) -> Sam:
    data = load_recipe(recipe).to_dict()
    for setting in settings:
        apply_setting(data, setting)
    chosen = type(load_recipe(recipe)).from_dict(data)
    return saqsam.quantize(saqsam.load("nano"), chosen, scenes / "images", scenes / "instances.json")


def outputs(model: SamModel) -> torch.Tensor:
    pixels = torch.randn((1, 3, 128, 128), generator=torch.Generator().manual_seed(5))
    boxes = torch.tensor([[[10.0, 12.0, 90.0, 100.0], [40.0, 3.0, 120.0, 60.0]]])
    with torch.no_grad():
        return model(pixel_values=pixels, input_boxes=boxes, multimask_output=True).pred_masks


@pytest.mark.parametrize("bits", ["w4a8", "w3a8"])
def test_the_library_reads_the_same_weights_to_the_last_bit(scenes: Path, tmp_path: Path, bits: str) -> None:
    library = pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig

    from saqsam.drop_in.compressed import write_compressed

    assert library is not None
    sam = quantized(scenes, f"rtn-{bits}", WEIGHTS_ONLY)
    write_compressed(sam, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    (scheme,) = QuantizationConfig.model_validate(config).config_groups.values()
    compressor = BaseCompressor.get_value_from_registry("pack-quantized")
    assert len(scheme.targets) > 40
    for path in scheme.targets:
        names = ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape")
        found = compressor.decompress({name: stored[f"{path}.{name}"] for name in names}, scheme)
        assert torch.equal(found["weight"], sam.model.get_submodule(path).weight), path


@pytest.mark.filterwarnings("ignore")  # of the other library
def test_transformers_loads_it_with_that_library(scenes: Path, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    from transformers import CompressedTensorsConfig

    from saqsam.drop_in.compressed import write_compressed

    sam = quantized(scenes, "rtn-w4a8", WEIGHTS_ONLY)
    write_compressed(sam, tmp_path)
    model = SamModel.from_pretrained(tmp_path, quantization_config=CompressedTensorsConfig(dequantize=True))
    own = dict(sam.model.named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, own[name]), name
    assert torch.allclose(outputs(model), outputs(sam.model), atol=1e-3)


def test_the_library_quantizes_inputs_alike(scenes: Path) -> None:
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.quantization import QuantizationConfig
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize

    from saqsam.drop_in.compressed import quantization_config, tensors
    from saqsam.pack.convert import to_packed

    sam = quantized(scenes, "rtn-w4a8", NO_ATTENTION)
    assert sam.quantization is not None
    packed = to_packed(sam.model, sam.quantization, {})
    config = QuantizationConfig.model_validate(quantization_config(packed))
    (scheme,) = config.config_groups.values()
    stored, path = tensors(packed), "vision_encoder.layers.0.mlp.lin2"
    layer = sam.model.get_submodule(path)
    x = torch.randn((64, 512), generator=torch.Generator().manual_seed(3))
    scale, zero_point = stored[f"{path}.input_scale"], stored[f"{path}.input_zero_point"]
    theirs = fake_quantize(x, scale, zero_point, scheme.input_activations)
    # They round after the zero point is added, which only moves values that lie between two steps.
    assert (theirs == layer.effective_input(x)).float().mean() > 0.999


def test_what_it_cannot_express_is_refused_by_name_and_the_hint_works(
    packed: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "nano.saqsam"
    out = tmp_path / "out"
    capsys.readouterr()
    assert run(["export", str(packed), "--format", "compressed-tensors", "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "vision_encoder.layers.0.attn:query" in said
    assert "attention tensors of attentions (log2 grid)" in said
    assert "tensors of convolutions" in said
    assert not out.exists()
    advised = [part.split("'")[0] for part in said.split("--set '")[1:]]
    assert sorted(advised) == sorted(NO_ATTENTION)
    better = quantized(scenes, "rtn-w4a4", advised)
    better.save(path)
    assert run(["export", str(path), "--format", "compressed-tensors", "--out", str(out)]) == 0
    assert {one.name for one in out.iterdir()} == {
        "config.json",
        "model.safetensors",
        "processor_config.json",
    }


def test_a_float_model_is_refused(tmp_path: Path) -> None:
    from saqsam.drop_in.compressed import write_compressed

    with pytest.raises(UsageError, match="float model"):
        write_compressed(saqsam.load("nano"), tmp_path)
