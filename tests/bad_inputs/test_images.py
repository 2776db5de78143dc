"""Files that are no images, or only half of one: one line that names the file and what is wrong."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saqsam.errors import ImageError
from saqsam.images.files import open_image


def reason(path: Path) -> str:
    """The message with which an image is refused."""
    with pytest.raises(ImageError) as caught:
        open_image(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message.removeprefix(str(path))
    assert caught.value.exit_code == 3
    assert len(message) < len(str(path)) + 400
    return message


def encoded(kind: str, **options: object) -> bytes:
    rng = np.random.default_rng(2)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, kind, **options)
    return buffer.getvalue()


WHOLE = {
    "png": encoded("PNG"),
    "jpg": encoded("JPEG"),
    "progressive.jpg": encoded("JPEG", progressive=True),
    "webp": encoded("WEBP", lossless=True),
    "tiff": encoded("TIFF"),
    "tiff.lzw": encoded("TIFF", compression="tiff_lzw"),
    "gif": encoded("GIF"),
    "bmp": encoded("BMP"),
    "ppm": encoded("PPM"),
    "jp2": encoded("JPEG2000"),
    "avif": encoded("AVIF"),
}


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_header(width: int, height: int) -> bytes:
    """A PNG that only says how large it is."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\n  <HTML>not found</HTML>", "web page"),
        (b"%PDF-1.7 something", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not an image"),
        (b'{"images": []}', "not an image"),
        (b"\x00" * 5000, "not an image"),
        (b"\x89PNG\r\n\x1a\n", "not an image|damaged"),
        (b"\xff\xd8\xff\xe0", "not an image|damaged"),
        (b" \n\t", "not an image"),
    ],
)
def test_what_is_no_image(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "picture.jpg"
    path.write_bytes(content)
    message = reason(path)
    assert any(word in message for word in words.split("|"))


@pytest.mark.parametrize("kind", WHOLE)
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path, kind: str) -> None:
    content = WHOLE[kind]
    path = tmp_path / f"half.{kind}"
    for share in (0.02, 0.3, 0.5, 0.9):
        path.write_bytes(content[: int(len(content) * share)])
        assert any(word in reason(path) for word in ("damaged", "not an image"))


@pytest.mark.parametrize("kind", WHOLE)
def test_damaged_bytes_give_an_image_or_an_image_error(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng([7, len(kind)])
    path = tmp_path / f"damaged.{kind}"
    for _ in range(60):
        content = np.frombuffer(WHOLE[kind], np.uint8).copy()
        spots = rng.integers(0, min(len(content), 400 if rng.random() < 0.5 else len(content)), 3)
        content[spots] = rng.integers(0, 256, 3)
        path.write_bytes(content.tobytes())
        with contextlib.suppress(ImageError):
            found = open_image(path, max_pixels=1_000_000)
            assert found.pixels.dtype == np.uint8
            assert found.pixels.ndim == 3


@pytest.mark.parametrize(
    ("width", "height", "words"),
    [
        (10_000, 9_000, "more than the limit of 89,000,000; raise --max-pixels"),
        (12_000, 12_000, "more than the limit"),
        (14_000, 14_000, "more than the limit of 89,000,000; raise --max-pixels to 196000000"),
        (2_000_000_000, 2_000_000_000, "pixels"),
        (0, 5, "not an image|damaged"),
    ],
)
def test_a_bomb_is_refused_by_its_header(
    tmp_path: Path,
    bounded: Callable[..., AbstractContextManager[None]],
    width: int,
    height: int,
    words: str,
) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(width, height))
    with bounded(megabytes=60, seconds=3):
        message = reason(path)
    assert any(word in message for word in words.split("|"))


def test_text_that_unpacks_to_a_gigabyte_is_not_unpacked(
    tmp_path: Path, bounded: Callable[..., AbstractContextManager[None]]
) -> None:
    pixels = chunk(b"IDAT", zlib.compress(b"\x00\x01\x02\x03"))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    text = chunk(b"zTXt", b"Comment\x00\x00" + zlib.compress(bytes(150_000_000), 1))
    path = tmp_path / "text.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + text + pixels + chunk(b"IEND", b""))
    with bounded(megabytes=100, seconds=5), contextlib.suppress(ImageError):
        open_image(path)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([[0.0, float("nan")]], "NaN or infinity"),
        ([[0.0, float("inf")]], "NaN or infinity"),
        ([[0.0, 256.5]], "no known white"),
        ([[-0.1, 0.5]], "no known white"),
    ],
)
def test_float_pixels_without_a_known_scale(tmp_path: Path, values: list[list[float]], words: str) -> None:
    Image.fromarray(np.array(values, np.float32)).save(tmp_path / "float.tiff")
    assert words in reason(tmp_path / "float.tiff")


def test_wide_integers_without_a_known_scale(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 70_000]], np.int32)).save(tmp_path / "wide.tiff")
    assert "no known white" in reason(tmp_path / "wide.tiff")


def test_what_is_no_file(tmp_path: Path) -> None:
    assert "no such file" in reason(tmp_path / "absent.png")
    assert "directory" in reason(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    reason(tmp_path / "loop")
    with pytest.raises(ImageError):
        open_image(f"{tmp_path}/a\0b.png")
    with pytest.raises(ImageError):
        open_image(tmp_path / ("x" * 5000))


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    reason(tmp_path / "pipe.png")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "private.png"
    path.write_bytes(WHOLE["png"])
    path.chmod(0)
    assert "cannot be read" in reason(path)
