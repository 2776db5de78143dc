"""Images that people really have: what is read is what is seen, and what was changed is said."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saqsam.errors import ImageError
from saqsam.images.files import open_image

ARROW = np.zeros((6, 4, 3), np.uint8)
"""No rotation or reflection of it equals another."""
ARROW[0, :] = (250, 20, 20)
ARROW[:, 0] = (20, 20, 250)
ARROW[5, 3] = (20, 250, 20)

# What each EXIF orientation asks of the stored pixels, in numpy's words (EXIF 2.3, tag 0x0112).
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_its_tag_asks(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = tmp_path / f"turned.{suffix}"
    options = {"webp": {"lossless": True}}.get(suffix, {})
    Image.fromarray(ARROW).save(path, exif=exif(orientation), **options)
    seen, stored = open_image(path), open_image(path, apply_exif=False)
    assert np.array_equal(seen.pixels, UPRIGHT[orientation](ARROW))
    assert np.array_equal(stored.pixels, ARROW)
    assert ("rotated" in " ".join(seen.notes)) == (orientation != 1)
    assert stored.notes == ()


def test_orientation_of_a_jpeg_swaps_its_sides(tmp_path: Path) -> None:
    Image.fromarray(ARROW.repeat(8, 0).repeat(8, 1)).save(tmp_path / "a.jpg", exif=exif(6))
    assert open_image(tmp_path / "a.jpg").pixels.shape == (32, 48, 3)
    assert open_image(tmp_path / "a.jpg", apply_exif=False).pixels.shape == (48, 32, 3)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_turns_nothing(tmp_path: Path, orientation: int) -> None:
    Image.fromarray(ARROW).save(tmp_path / "a.png", exif=exif(orientation))
    assert np.array_equal(open_image(tmp_path / "a.png").pixels, ARROW)


def test_a_flipped_bit_in_a_png_is_found(tmp_path: Path) -> None:
    """Decoders mostly go on with other pixels; the file's own checksums tell."""
    smooth = np.add.outer(np.arange(90), np.arange(120)).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.png", exif=exif(1))
    content = (tmp_path / "a.png").read_bytes()
    chance = random.Random(3)
    for place in chance.sample(range(content.index(b"IDAT") + 4, content.index(b"IEND") - 4), 40):
        flipped = bytearray(content)
        flipped[place] ^= 1 << chance.randrange(8)
        (tmp_path / "b.png").write_bytes(flipped)
        with pytest.raises(ImageError, match="copy it again"):
            open_image(tmp_path / "b.png")
    assert np.array_equal(open_image(tmp_path / "a.png").pixels[..., 0], smooth)


def test_rubbish_in_place_of_exif_is_ignored(tmp_path: Path) -> None:
    Image.fromarray(ARROW).save(tmp_path / "a.png", exif=b"Exif\x00\x00MM\x00*" + bytes(range(200)))
    assert np.array_equal(open_image(tmp_path / "a.png").pixels, ARROW)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bit_greys_keep_their_upper_byte(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 255, 256, 257, 32768, 65280, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / f"deep.{suffix}")
    found = open_image(tmp_path / f"deep.{suffix}")
    assert found.pixels[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255, 255]
    assert (found.pixels == found.pixels[..., :1]).all()
    assert "16-bit" in found.notes[0]


def test_big_endian_sixteen_bit_greys(tmp_path: Path) -> None:
    """A PGM of 16 bits is big-endian by definition."""
    (tmp_path / "deep.pgm").write_bytes(b"P5 3 1 65535\n" + bytes((0, 255, 128, 0, 255, 255)))
    found = open_image(tmp_path / "deep.pgm")
    assert found.pixels[0, :, 0].tolist() == [0, 128, 255]


def test_sixteen_bit_colour(tmp_path: Path) -> None:
    (tmp_path / "deep.ppm").write_bytes(b"P6 1 1 65535\n" + bytes((255, 255, 128, 0, 0, 9)))
    red, green, blue = open_image(tmp_path / "deep.ppm").pixels[0, 0].tolist()
    assert (red, blue) == (255, 0)
    assert green in (127, 128)
    assert open_image(tmp_path / "deep.ppm").notes == ()
    (tmp_path / "deep.ppm").write_bytes(b"P6 1 1 65535\n" + bytes((15, 255, 2, 0, 0, 9)))
    (note,) = open_image(tmp_path / "deep.ppm").notes
    assert "nearly black" in note


def test_transparent_pixels_keep_their_colour(tmp_path: Path) -> None:
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[..., :3] = (200, 10, 10)
    Image.fromarray(pixels).save(tmp_path / "clear.png")
    found = open_image(tmp_path / "clear.png")
    assert (found.pixels == (200, 10, 10)).all()
    assert found.notes == ("transparency dropped",)


def test_grey_with_alpha_and_palette_with_transparency(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[77, 0], [99, 255]]], np.uint8)).save(tmp_path / "la.png")
    assert open_image(tmp_path / "la.png").pixels[0, :, 1].tolist() == [77, 99]
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1])
    palette.save(tmp_path / "p.png", transparency=0)
    found = open_image(tmp_path / "p.png")
    assert found.pixels[0].tolist() == [[10, 20, 30], [40, 50, 60]]
    assert found.notes == ("transparency dropped",)
    palette.save(tmp_path / "opaque.png")
    assert open_image(tmp_path / "opaque.png").notes == ()


def test_cmyk_is_converted_and_noted(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "print.jpg", quality=100)
    found = open_image(tmp_path / "print.jpg")
    assert np.abs(found.pixels.astype(int) - (255, 0, 0)).max() < 12
    assert "CMYK" in found.notes[0]


def test_black_and_white(tmp_path: Path) -> None:
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "fax.tiff")
    assert open_image(tmp_path / "fax.tiff").pixels[0].tolist() == [[255] * 3, [0] * 3]


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tiff"])
def test_of_several_frames_the_first_is_read(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "blue", "lime")]
    options = {"webp": {"lossless": True}}.get(suffix, {})
    frames[0].save(tmp_path / f"film.{suffix}", save_all=True, append_images=frames[1:], **options)
    found = open_image(tmp_path / f"film.{suffix}")
    assert (found.pixels == (255, 0, 0)).all()
    assert "first of several frames" in found.notes


def test_float_pixels_in_known_ranges(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)).save(tmp_path / "unit.tiff")
    assert open_image(tmp_path / "unit.tiff").pixels[0, :, 0].tolist() == [0, 128, 255]
    Image.fromarray(np.array([[0.0, 127.6, 255.0]], np.float32)).save(tmp_path / "byte.tiff")
    assert open_image(tmp_path / "byte.tiff").pixels[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("size", [(1, 1), (1, 20000), (20000, 1)])
def test_extreme_shapes_are_read(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, (9, 8, 7)).save(tmp_path / "thin.png")
    found = open_image(tmp_path / "thin.png")
    assert found.pixels.shape == (size[1], size[0], 3)
    assert (found.pixels == (9, 8, 7)).all()


def test_the_name_of_a_file_does_not_matter(tmp_path: Path) -> None:
    Image.fromarray(ARROW).save(tmp_path / "a.png")
    for name in ("a.jpg", "a", "a.txt", "ä ö\n猫.gif"):
        (tmp_path / name).write_bytes((tmp_path / "a.png").read_bytes())
        assert np.array_equal(open_image(tmp_path / name).pixels, ARROW)


def test_the_limit_of_pixels_can_be_raised_past_pillows_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow warns from 89 megapixels on; asking for more must not turn that warning into an error."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)
    Image.new("1", (30, 30)).save(tmp_path / "large.png")
    found = open_image(tmp_path / "large.png")
    assert found.pixels.shape == (30, 30, 3)
    assert found.notes == ()


def test_pixels_belong_to_the_caller(tmp_path: Path) -> None:
    Image.fromarray(ARROW).save(tmp_path / "a.png", exif=exif(6))
    for apply_exif in (True, False):
        pixels = open_image(tmp_path / "a.png", apply_exif=apply_exif).pixels
        assert pixels.flags.c_contiguous
        assert pixels.flags.writeable
