"""What a person is told about the pictures a model is calibrated on."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SamModel

import saqsam as sq
from saqsam.api import calibration_set
from saqsam.errors import RecipeError, UsageError
from saqsam.images.files import open_image
from saqsam.recipe import load_recipe
from saqsam.shipped.embedded import embedded_sam

RECIPE = load_recipe("rtn-w8a8", settings={"calibration": {"images": 6, "prompts": 2}})


def picture(path: Path, seed: int, brightest: int = 256) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, brightest, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_folders_are_read_with_the_folders_in_them_and_without_hidden_files(tmp_path: Path) -> None:
    names = ["a.png", "b.png", "one/c.png", "one/two/d.png"]
    for seed, name in enumerate(names):
        picture(tmp_path / name, seed)
    (tmp_path / "._a.png").write_bytes(b"what macOS leaves")
    (tmp_path / ".thumbnails").mkdir()
    (tmp_path / ".thumbnails" / "e.png").write_bytes(b"not a picture")
    (tmp_path / "one" / "again").symlink_to(tmp_path)
    found = calibration_set(RECIPE, tmp_path)
    assert sorted(str(one.path.relative_to(tmp_path)) for one in found.images) == names
    assert (found.used, found.seen, found.notes) == (4, 4, ())
    assert str(found) == f"calibrated on 4 of 4 pictures in {tmp_path}; the recipe asks for 6"


def test_a_flat_folder_is_drawn_from_as_before(tmp_path: Path) -> None:
    for seed in range(9):
        picture(tmp_path / f"{seed}.png", seed)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))[:6].tolist()
    assert [one.path.name for one in calibration_set(RECIPE, tmp_path).images] == [f"{i}.png" for i in order]


def test_twelve_bits_in_sixteen_are_noted_where_the_file_is_read(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (40, 60), dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "ct.tif")
    (scaled, dark) = open_image(tmp_path / "ct.tif").notes
    assert "value >> 8" in scaled
    assert "no value reaches 4096 of 65535" in dark
    Image.fromarray(values * 16).save(tmp_path / "ct.tif")
    assert open_image(tmp_path / "ct.tif").notes == (scaled,)
    Image.fromarray(values).save(tmp_path / "ct.tif")
    notes = calibration_set(RECIPE, tmp_path).notes
    assert [note for note in notes if "nearly black" in note] == [f"1 of 1 pictures (ct.tif): {dark}"]


def test_blank_and_dark_pictures_and_copies_are_noted(tmp_path: Path) -> None:
    Image.new("RGB", (60, 40)).save(tmp_path / "black.png")
    Image.new("RGB", (60, 40), "red").save(tmp_path / "red.png")
    picture(tmp_path / "dark.png", 1, brightest=12)
    for name in ("x.png", "y.png", "z.bmp"):
        picture(tmp_path / name, 2)
    notes = calibration_set(RECIPE, tmp_path).notes
    assert any(note.startswith("2 of 6 pictures (such as ") and "one colour" in note for note in notes)
    assert any(note.startswith("1 of 6 pictures (dark.png): nearly black") for note in notes)
    assert any(note.startswith("2 of 6 pictures") and "a copy of another" in note for note in notes)
    assert len(notes) == 3


def test_they_are_logged_and_returned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.new("RGB", (60, 40), "red").save(tmp_path / "red.png")
    picture(tmp_path / "a.png", 1)
    with caplog.at_level(logging.INFO, "saqsam"):
        made = sq.quantize(sq.load("nano"), RECIPE, tmp_path)
    assert made.log is not None
    assert made.log.calibration.to_dict()["used"] == 2
    (note,) = made.log.calibration.notes
    assert f"note: {note}" in caplog.messages
    assert any(message.startswith("calibrating on 2 of 2 pictures") for message in caplog.messages)
    assert set(made.log.seconds) > {"encoder ranges", "freeze"}
    assert "seconds" not in made.records


def test_pictures_as_people_name_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = picture(tmp_path / "a.png", 1)
    monkeypatch.setenv("HOME", str(tmp_path))
    for images in ([str(path)], "~", ["~/a.png"], str(path), iter([path]), (path,)):
        assert [one.path for one in calibration_set(RECIPE, images).images] == [path]
    with pytest.raises(UsageError, match=r"images\[0\]: expected the path of a file, got ndarray"):
        calibration_set(RECIPE, [np.zeros((4, 4, 3), np.uint8)])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="a YAML file, got int"):
        sq.quantize(sq.load("nano"), 7, path)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match=r"absent\.yaml"):
        sq.quantize(sq.load("nano"), tmp_path / "absent.yaml", path)
    with pytest.raises(UsageError, match="images: expected a folder or a list of files, got int"):
        calibration_set(RECIPE, 7)  # type: ignore[arg-type]


def test_a_plain_transformers_model_is_quantized_as_if_loaded(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 1)
    expected = sq.quantize(sq.load("nano"), RECIPE, tmp_path)
    expected.save(tmp_path / "expected.safetensors")
    model: SamModel = embedded_sam("nano")
    model.train()
    model.requires_grad_(True)
    for module in model.mask_decoder.transformer.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-6
    model.config.mask_decoder_config.layer_norm_eps = 1e-6
    found = sq.quantize(model, RECIPE, tmp_path)
    found.save(tmp_path / "found.safetensors")
    assert (tmp_path / "found.safetensors").read_bytes() == (tmp_path / "expected.safetensors").read_bytes()
    assert model.training  # left alone
    with pytest.raises(UsageError, match="already quantized"):
        sq.quantize(found.model, RECIPE, tmp_path)
    with pytest.raises(UsageError, match="got str; load it first"):
        sq.quantize("nano", RECIPE, tmp_path)  # type: ignore[arg-type]
