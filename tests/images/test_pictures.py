"""Pictures in every form a user may have them: one right answer where the meaning is plain, else advice."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from saqsam.errors import ImageError
from saqsam.images.files import open_image, pixel_limit
from saqsam.images.pixels import as_pixels
from saqsam.sam import Sam

PIXELS = np.random.default_rng(8).integers(0, 256, (20, 30, 3), dtype=np.uint8)
GREY = PIXELS[..., 0]
ALPHA = np.concatenate([PIXELS, GREY[..., None]], axis=2)
FLOATS = PIXELS.astype(np.float32)


class Whole(np.ndarray):
    """Has ways of its own, as subclasses of arrays do; numpy has crashed on repeating ``np.matrix``."""

    def __getitem__(self, key: object) -> Any:
        raise TypeError(f"not to be taken apart by {key}")


def chw(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(values, 2, 0)))


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (PIXELS, PIXELS),
        (ALPHA, PIXELS),
        (PIXELS.astype(np.int64), PIXELS),
        (FLOATS / 255, PIXELS),
        (FLOATS.astype(np.float64), PIXELS),
        (GREY, np.repeat(GREY[..., None], 3, 2)),
        (GREY[..., None], np.repeat(GREY[..., None], 3, 2)),
        (np.moveaxis(PIXELS, 2, 0), PIXELS),
        (torch.from_numpy(PIXELS), PIXELS),
        (chw(PIXELS), PIXELS),
        (chw(ALPHA), PIXELS),
        (chw(FLOATS / 255).requires_grad_(), PIXELS),
        (GREY.view(Whole), np.repeat(GREY[..., None], 3, 2)),
        (np.asfortranarray(PIXELS[::-1])[::-1], PIXELS),
        (torch.from_numpy(GREY)[None], np.repeat(GREY[..., None], 3, 2)),
        (Image.fromarray(PIXELS), PIXELS),
        (Image.fromarray(ALPHA, "RGBA"), PIXELS),
        (Image.fromarray(GREY), np.repeat(GREY[..., None], 3, 2)),
    ],
)
def test_what_is_plain_is_taken(picture: Any, expected: np.ndarray) -> None:
    found = as_pixels(picture)
    assert found.pixels.dtype == np.uint8
    assert found.pixels.flags.c_contiguous
    assert np.array_equal(found.pixels, expected)


def test_half_precision_is_taken_to_its_own_rounding() -> None:
    found = as_pixels(chw(FLOATS / 255).to(torch.bfloat16)).pixels
    assert np.abs(found.astype(int) - PIXELS).max() <= 1


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (PIXELS[None], r"image\[0\]"),
        (chw(PIXELS)[None], "segment_many"),
        ([PIXELS], "segment_many"),
        (["a.png", "b.png"], "segment_many"),
        (PIXELS.astype(np.uint16) * 256, "scale them"),
        (FLOATS / 127.5 - 1, "undo the normalisation"),
        (FLOATS / 255 * np.nan, "NaN"),
        (PIXELS > 127, "255"),
        (PIXELS.astype(complex), "pass"),
        (np.zeros((20, 30, 2), np.uint8), "pass"),
        (np.zeros((20, 30, 5, 5, 1), np.uint8), "pass"),
        (np.zeros((0, 30, 3), np.uint8), "pass"),
        (torch.zeros(3, 20, 3), "could be"),
        (b"\x89PNG", "BytesIO"),
        (None, "pass"),
        (7, "pass"),
        (io.BytesIO(b"\x89PNG"), "PIL.Image.open"),
        ("https://example.org/a.png", "download it"),
        (Path("http://example.org/a.png"), "download it"),
        ("~nobody-of-this-name/a.png", "whole path"),
    ],
)
def test_what_could_mean_anything_else_says_what_to_pass(picture: Any, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        as_pixels(picture)


def test_segment_takes_them_all_alike(
    float_sam: Sam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    box = [3, 4, 25, 18]
    expected = float_sam.segment(PIXELS, boxes=[box]).masks
    for picture in ("~/a.png", Image.fromarray(PIXELS), chw(FLOATS / 255), ALPHA):
        assert np.array_equal(float_sam.segment(picture, boxes=box).masks, expected)
        assert np.array_equal(float_sam.segment_many([picture], boxes=[box])[0].masks, expected)
    assert float_sam.segment(ALPHA, boxes=box).notes == ("transparency dropped",)


def test_a_pillow_image_keeps_its_own_pixel_frame(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(tmp_path / "turned.png", exif=exif)
    assert open_image(tmp_path / "turned.png").pixels.shape == (30, 20, 3)
    with Image.open(tmp_path / "turned.png") as image:
        found = as_pixels(image)
    assert np.array_equal(found.pixels, PIXELS)
    assert "not applied" in found.notes[0]


def test_pictures_that_are_nearly_black_say_so() -> None:
    (note,) = as_pixels(PIXELS // 128).notes
    assert note.startswith("nearly black: no value reaches 17 of 255")
    assert as_pixels(Image.fromarray(PIXELS // 128)).notes == (note,)
    assert as_pixels(torch.ones(3, 6, 6).to(torch.float8_e4m3fn)).pixels.min() == 255
    assert as_pixels(np.zeros((4, 4), np.uint8)).notes == ()


def test_a_pipe_and_a_device_are_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    for path, words in ((tmp_path / "pipe.png", "pipe or a device"), (Path("/dev/null"), "pipe or a device")):
        with pytest.raises(ImageError, match=words):
            open_image(path)
    with pytest.raises(ImageError, match="a link to a file that is not there"):
        open_image(tmp_path / "link.png")


def test_the_pixel_limit_can_be_set_and_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(path)
    with pixel_limit(599), pytest.raises(ImageError, match="raise --max-pixels to 600"):
        open_image(path)
    with pixel_limit(600):
        assert open_image(path).pixels.shape == (20, 30, 3)
    assert open_image(path).pixels.shape == (20, 30, 3)


def test_a_limit_above_pillows_own_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    with pytest.raises(ImageError, match="raise --max-pixels to 600"):
        open_image(path, max_pixels=399)
    assert open_image(path, max_pixels=600).pixels.shape == (20, 30, 3)
    assert Image.MAX_IMAGE_PIXELS == 200


def test_a_damaged_tiff_prints_nothing_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
        path, compression="tiff_deflate"
    )
    content = bytearray(path.read_bytes())
    for place in range(200, len(content) - 300, 97):
        content[place] ^= 0xFF
    path.write_bytes(content)
    code = "import sys; from saqsam.cli.app import run; sys.exit(run(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "segment", "nano", str(path), "--box", "1,2,30,40"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1
    assert "damaged or truncated" in done.stderr
