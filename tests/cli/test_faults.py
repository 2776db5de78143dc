"""NaN, read-only folders, a pulled plug: a typed error, its exit code, and no file left behind."""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from tests.forked import forked, heed_interrupts
from tests.told import without_progress
from transformers import SamModel

if TYPE_CHECKING:
    from tests.cli.conftest import Ground, Saqsam


def test_a_nan_weight_is_named_before_anything_is_computed(
    saqsam: Saqsam, ground: Ground, tiny_sam: SamModel, tmp_path: Path
) -> None:
    tiny_sam.vision_encoder.layers[1].mlp.lin2.weight.data[3, 4] = torch.nan
    tiny_sam.save_pretrained(tmp_path / "tiny")
    out = tmp_path / "out.safetensors"
    shown = saqsam(*ground.quantize(tmp_path / "tiny", out))
    assert (shown.code, shown.out) == (3, "")
    assert "vision_encoder.layers.1.mlp.lin2.weight" in shown.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny"]


def test_infinity_inside_the_model_stops_quantization_at_its_site(
    saqsam: Saqsam, ground: Ground, tiny_sam: SamModel, tmp_path: Path
) -> None:
    tiny_sam.vision_encoder.layers[1].mlp.lin1.weight.data[0, 0] = 3e38  # finite, unlike 1.2 times as much
    tiny_sam.save_pretrained(tmp_path / "tiny")
    out = tmp_path / "out.safetensors"
    shown = saqsam(*ground.quantize(tmp_path / "tiny", out))
    assert (shown.code, shown.out) == (4, "")
    assert "vision_encoder.layers.1.mlp.lin2:input" in shown.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny"]


def test_a_model_that_gives_nan_is_not_called_good(
    saqsam: Saqsam, ground: Ground, tiny_sam: SamModel, tmp_path: Path
) -> None:
    tiny_sam.vision_encoder.layers[1].mlp.lin1.weight.data *= 1e38
    tiny_sam.save_pretrained(tmp_path / "tiny")
    where = ("--images", ground.images, "--annotations", ground.annotations)
    shown = saqsam("evaluate", tmp_path / "tiny", *where, "--json")
    assert shown.code == 4
    assert shown.result["nan_count"] == shown.result["instances"] > 0
    image, box = ground.images / "000001.png", ("--box", "1,2,60,70")
    alone = saqsam("segment", tmp_path / "tiny", image, *box, "--out", tmp_path / "mask.png")
    assert (alone.code, alone.out) == (4, "")
    many = saqsam(
        *("segment", tmp_path / "tiny", ground.images, "--detections", ground.detections),
        *("--out", tmp_path / "masks.json"),
    )
    assert (many.code, many.out) == (4, "")
    assert "000001.png" in many.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny"]


@pytest.mark.parametrize("spoil", ["nan", "truncated", "html"])
def test_calibration_stops_at_a_bad_image_and_names_it(
    saqsam: Saqsam, folder: Path, tmp_path: Path, spoil: str
) -> None:
    bad = folder / "bad.tif"
    if spoil == "nan":
        pixels = np.full((64, 64), 0.5, dtype=np.float32)
        pixels[3, 5] = np.nan
        Image.fromarray(pixels).save(bad)
    elif spoil == "truncated":
        bad.write_bytes((folder / "000001.png").read_bytes()[:300])
    else:
        bad.write_text("<html>404</html>")
    out = tmp_path / "out.safetensors"
    shown = saqsam("quantize", "nano", "--images", folder, "--recipe", "rtn-w4a4", "--out", out)
    assert (shown.code, shown.out) == (3, "")
    assert f"{bad}: " in shown.err
    assert "calibration stops here" in shown.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused_before_work_begins(
    saqsam: Saqsam, ground: Ground, tmp_path: Path
) -> None:
    tmp_path.chmod(0o500)
    shown = saqsam(*ground.quantize("nano", tmp_path / "out.safetensors"))
    tmp_path.chmod(0o700)
    assert shown.code == 2
    assert "cannot be written to" in shown.err


def test_an_operating_system_error_is_one_line(saqsam: Saqsam, ground: Ground) -> None:
    shown = saqsam(*ground.quantize("nano", Path("/proc/out.safetensors")))
    assert shown.code in (1, 2)
    *notes, error = shown.err.splitlines()
    assert all(note.startswith("calibrating on ") for note in notes)
    assert "/proc" in error
    assert "unexpected" not in shown.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_run_leaves_no_file(
    ground: Ground, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for copy in range(40):  # enough that it is still at work when the signal arrives
        shutil.copy(ground.images / "000001.png", images / f"{copy}.png")
    out = tmp_path / "out.safetensors"
    words = ["quantize", "nano", "--images", str(images), "--recipe", "saq-sam-star", "--out", str(out)]
    screen, terminal = pty.openpty()  # progress is drawn only on a terminal: it tells when work has begun
    said, stdout = os.pipe()
    child = forked(words, heed_interrupts, stdout=stdout, stderr=terminal)
    os.close(terminal)
    os.close(stdout)
    drawn = read_until(screen, b"encoder ranges")
    os.kill(child, number)
    drawn += read_until(screen, None)
    os.close(screen)
    with os.fdopen(said, "rb") as printed:
        assert printed.read() == b""
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == code, drawn
    assert b"Traceback" not in drawn
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]
    assert len(list(images.iterdir())) == 40


def read_until(screen: int, wanted: bytes | None) -> bytes:
    """What appears on a terminal up to some text, or to its end."""
    seen, until = b"", time.monotonic() + 240
    while wanted is None or wanted not in seen:
        ready, _, _ = select.select([screen], [], [], max(0.0, until - time.monotonic()))
        assert ready, f"nothing came for 240 s after {seen[-500:]!r}"
        try:
            part = os.read(screen, 4096)
        except OSError:  # Linux: the other end was closed
            part = b""
        if not part:
            break
        seen += part
    return seen


def test_the_installed_command(command: str, ground: Ground, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    quiet = subprocess.run(
        [command, *ground.quantize("nano", out)], capture_output=True, text=True, check=False, timeout=240
    )
    assert quiet.returncode == 0
    assert "calibrating on 3 of 3 pictures" in without_progress(quiet.stderr)
    assert quiet.stdout.startswith(f"{out}: ")
    assert out.is_file()


def test_a_pipe_that_closes_early_is_met_with_silence(command: str) -> None:
    reader, writer = os.pipe()
    run = subprocess.Popen(
        [command, "recipe", "show", "saq-sam-star"], stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(reader)
    os.close(writer)
    _, said = run.communicate(timeout=240)
    assert (run.returncode, said) == (1, "")


def test_closed_streams_do_not_end_the_work(command: str) -> None:
    closed = subprocess.run(["sh", "-c", f"'{command}' recipe list >&- 2>&-"], check=False, timeout=240)
    assert closed.returncode == 0
    kept = subprocess.run(
        ["sh", "-c", f"'{command}' recipe list >&-"], stderr=subprocess.PIPE, check=False, timeout=240
    )
    assert (kept.returncode, kept.stderr) == (0, b"")
