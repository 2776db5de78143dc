"""What a page is made of, without a browser, and how wrong uses are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.families.sam3_models import tiny_sam3
from tests.families.tiny_sam_hq import plain_sam_hq
from typer.testing import CliRunner

from saqsam.cli.app import app
from saqsam.errors import CheckpointError, UsageError
from saqsam.images.frame import Preprocessing
from saqsam.serve.site import folder_site
from saqsam.web.compact import AnyMachine
from saqsam.web.graphs import refuse_preprocessing
from saqsam.web.runtime import runtime_files
from saqsam.web.write import export_web


def test_what_no_machine_gets_wrong_is_all_that_is_signed() -> None:
    """Two products of the largest values, added up, as a kernel that saturates at 16 bits has them."""
    machine = AnyMachine()
    for code, weight in ((255, 63), (255, 64), (255, 65), (15, 128), (255, 128), (127, 128)):
        fits = 2 * code * weight <= np.iinfo(np.int16).max
        assert machine.signed(code, weight) == fits


def test_the_runtime_is_the_published_one() -> None:
    found = runtime_files()
    assert found["ort-wasm-simd-threaded.wasm"].startswith(b"\0asm")
    assert b"MIT License" in found["LICENSE"]


def test_a_page_of_sam_2_is_proved_and_describes_its_graphs(exported_sam2: Path) -> None:
    models = json.loads((exported_sam2 / "manifest.json").read_text())["models"]
    for model, folder in zip(models, ("model", "compared"), strict=True):
        assert (model["pads"], model["ends_prompts"]) == (False, True)
        assert model["parity"]["decoder_mask_iou"] >= 0.999
        inputs, outputs = [], []
        for file in model["files"].values():
            graph = onnx.load(exported_sam2 / file["path"]).graph
            inputs += [one.name for one in graph.input]
            outputs += [one.name for one in graph.output]
            assert file["path"].startswith(folder)
        assert model["tensors"].pop("pixels") == inputs[0]
        assert set(model["tensors"].values()) <= set(outputs)
        assert "mask_input" not in inputs


def test_a_page_of_sam_hq_takes_two_tensors_from_its_encoder(tmp_path: Path) -> None:
    plain_sam_hq().save_pretrained(tmp_path / "hq")
    done = export_web([tmp_path / "hq"], tmp_path / "page", limit=1)
    assert [one is not None and one.mask_iou > 0.999 for one in done.parities] == [True]
    names = [
        [one.name for one in onnx.load(tmp_path / "page" / "model" / name).graph.input]
        for name in ("encoder.onnx", "decoder-image.onnx")
    ]
    assert names == [["images"], ["image_embeddings", "interm_embeddings"]]


def test_a_page_of_sam_3_prepares_images_as_its_model_wants_them(tmp_path: Path) -> None:
    tiny_sam3().save_pretrained(tmp_path / "mine")
    done = export_web([tmp_path / "mine"], tmp_path / "page", limit=1)
    assert [one is not None and one.mask_iou > 0.999 for one in done.parities] == [True]
    (entry,) = json.loads((tmp_path / "page" / "manifest.json").read_text())["models"]
    assert (entry["side"], entry["pads"], entry["mean"], entry["std"]) == (112, False, [0.5] * 3, [0.5] * 3)
    assert entry["tensors"]["pixels"] == "image"


def test_what_a_page_cannot_prepare_is_told() -> None:
    refuse_preprocessing(Preprocessing(64, pads=False, mean=(0.5, 0.5, 0.5)))
    with pytest.raises(UsageError, match="saqsam serve"):
        refuse_preprocessing(Preprocessing(64, bicubic=True))


def test_wrong_uses_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one or two"):
        export_web([], tmp_path / "page")
    with pytest.raises(CheckpointError, match="without a page"):
        folder_site(tmp_path)
    words = ["export", "nano", "--out", str(tmp_path / "x"), "--compare", "small"]
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, UsageError)
    assert list(tmp_path.iterdir()) == []
