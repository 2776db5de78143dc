"""The process itself is struck: killed at any moment, told to stop, left without room, set up strangely."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tests.forked import forked, heed_interrupts
from transformers import SamModel

from saqsam import api
from saqsam.cli.app import run as command_line
from saqsam.scenes import write_scenes

SETTINGS = (
    *("calibration.images=2", "calibration.prompts=1", "clip.method=none"),
    *("weight_ranges.method=minmax", "activation_ranges.method=minmax"),
    *("reconstruct.iterations=3", "reconstruct.batch=2"),
)
KILLS = int(os.environ.get("SAQSAM_KILLS", "3"))
PARTS = (
    *("calibration", "encoder-stage-0", "encoder-stage-1", "neck"),
    *("decoder-layer-0", "decoder-layer-1", "final-attention", "output"),
)


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where model and scenes are kept."""
    return tmp_path_factory.mktemp("place of work")


@pytest.fixture
def words(place: Path, tiny_sam: SamModel) -> Callable[..., list[str]]:
    """A valid ``saqsam quantize`` of a tiny model, from a run directory and a file to write."""
    if not (place / "scenes").exists():
        tiny_sam.save_pretrained(place / "model")
        write_scenes(place / "scenes", 2, seed=5, size=(64, 64))

    def command(run: Path, out: Path, *settings: str) -> list[str]:
        given = [word for setting in (*SETTINGS, *settings) for word in ("--set", setting)]
        scenes = place / "scenes"
        where = ["--images", str(scenes / "images"), "--annotations", str(scenes / "instances.json")]
        named = ["--recipe", "saq-sam-w4a4", "--run", str(run), "--out", str(out)]
        return ["quantize", str(place / "model"), *where, *named, *given]

    return command


@dataclass(frozen=True)
class Whole:
    """A run that nothing disturbed."""

    directory: Path
    out: Path
    seconds: float


@pytest.fixture
def whole(place: Path, words: Callable[..., list[str]]) -> Whole:
    """Run once for the whole session; not to be changed."""
    directory, out, length = place / "whole", place / "whole.safetensors", place / "seconds"
    if not out.exists():
        begin = time.monotonic()
        assert os.waitpid(forked(words(directory, out)), 0)[1] == 0
        length.write_text(str(time.monotonic() - begin))
    return Whole(directory, out, float(length.read_text()))


def test_sigkill_at_random_moments_changes_nothing(
    words: Callable[..., list[str]], whole: Whole, tmp_path: Path
) -> None:
    expected = whole.out.read_bytes()
    moments = random.Random(7)
    struck = 0
    for kill in range(KILLS):
        directory, out = tmp_path / f"run{kill}", tmp_path / f"{kill}.safetensors"
        child = forked(words(directory, out))
        time.sleep(moments.uniform(0.05, 0.95) * whole.seconds)
        os.kill(child, signal.SIGKILL)
        struck += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        before = {path: path.stat().st_mtime_ns for path in directory.glob("parts/*.safetensors")}
        assert os.waitpid(forked([*words(directory, out), "--force"]), 0)[1] == 0
        assert {path: path.stat().st_mtime_ns for path in before} == before, "a finished part was redone"
        assert out.read_bytes() == expected
        shutil.rmtree(directory)
    assert struck > KILLS // 2, "most runs had ended before they could be killed"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run_before_its_next_unit_and_keeps_finished_parts(
    words: Callable[..., list[str]], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    directory, out = tmp_path / "run", tmp_path / "out.safetensors"

    # Long enough that a busy machine cannot finish it before the signal is sent.
    child = forked(words(directory, out, "reconstruct.iterations=12"), heed_interrupts)
    wanted = directory / "parts/encoder-stage-0.safetensors"
    until = time.monotonic() + 60
    while not wanted.exists() and time.monotonic() < until:
        time.sleep(0.002)
    parts = len(list((directory / "parts").iterdir()))
    os.kill(child, number)
    status = os.waitpid(child, 0)[1]
    assert len(list((directory / "parts").iterdir())) <= parts + 1, "it went on with the units that follow"
    ended = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    assert ended == code
    assert wanted.exists()
    assert not out.exists()
    assert not list(tmp_path.rglob("*.part"))
    assert command_line(["resume", str(directory), "--json"]) == 0


@pytest.mark.parametrize("full", ["calibration", "neck", "output"])
def test_no_room_to_write_ends_with_code_3_and_keeps_earlier_parts(
    words: Callable[..., list[str]],
    whole: Whole,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    full: str,
) -> None:
    directory, out = tmp_path / "run", tmp_path / "out.safetensors"
    sizes = {path.stem: path.stat().st_size for path in (whole.directory / "parts").iterdir()}
    sizes["output"] = whole.out.stat().st_size
    earlier = PARTS[: PARTS.index(full)]
    if earlier:  # what came before is kept, so that the limit meets the file asked for, however small
        (directory / "parts").mkdir(parents=True)
        for name in ("run.json", "command.json", *(f"parts/{part}.safetensors" for part in earlier)):
            shutil.copy2(whole.directory / name, directory / name)
    before = {path: path.read_bytes() for path in directory.glob("parts/*")}

    def scarce() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (sizes[full] * 9 // 10, resource.RLIM_INFINITY))

    capfd.readouterr()
    status = os.waitpid(forked(words(directory, out), scarce), 0)[1]
    shown = capfd.readouterr().err
    assert os.WEXITSTATUS(status) == 3, shown
    assert "no space left" in shown
    assert f"{'out' if full == 'output' else full}.safetensors: " in shown
    assert "Traceback" not in shown
    assert not out.exists()
    assert not list(tmp_path.rglob("*.part"))
    assert {path: path.read_bytes() for path in directory.glob("parts/*")} == before
    assert os.waitpid(forked(words(directory, out)), 0)[1] == 0
    assert out.read_bytes() == whole.out.read_bytes()


def test_names_of_every_kind(words: Callable[..., list[str]], tmp_path: Path) -> None:
    name = "with spaces, Größe-模型, two\nlines"
    before = set(tmp_path.iterdir())
    directory, out = tmp_path / name, tmp_path / f"{name}.safetensors"
    small = ("reconstruct.iterations=1", "calibration.images=1")
    assert command_line(words(directory, out, *small)) == 0
    assert set(tmp_path.iterdir()) - before == {directory, out}
    assert command_line(["resume", str(directory), "--force", "--json"]) == 0


def test_a_run_below_a_missing_directory_is_refused(
    words: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line(words(tmp_path / "no" / "run", tmp_path / "out.safetensors")) == 2
    assert "create it first" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_surroundings_do_not_matter(words: Callable[..., list[str]], tmp_path: Path) -> None:
    """A process with another hash seed, language, time zone and mask, beside this one."""
    code = "import sys, torch; torch.set_num_threads(1)\nfrom saqsam.cli.app import run; sys.exit(run())"
    short = ("reconstruct.iterations=1", "reconstruct.batch=1", "calibration.images=1")
    here, there = tmp_path / "here.safetensors", tmp_path / "there.safetensors"
    before = os.umask(0o022)
    try:
        assert command_line(words(tmp_path / "here", here, *short)) == 0
    finally:
        os.umask(before)
    assert here.stat().st_mode & 0o777 == 0o644
    elsewhere = {"PYTHONHASHSEED": "4242", "LC_ALL": "tr_TR.UTF-8", "TZ": "Pacific/Kiritimati"}
    run = subprocess.run(
        [sys.executable, "-c", code, *words(tmp_path / "there", there, *short)],
        env={**os.environ, **elsewhere},
        umask=0o077,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert there.stat().st_mode & 0o777 == 0o600
    assert here.read_bytes() == there.read_bytes()


@pytest.mark.slow
def test_another_number_of_threads_moves_hardly_any_integer(
    words: Callable[..., list[str]], tmp_path: Path
) -> None:
    code = "import sys, torch; torch.set_num_threads(2)\nfrom saqsam.cli.app import run; sys.exit(run())"
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    nothing_learned = ("calibration.images=1", "reconstruct.encoder=none", "reconstruct.decoder=none")
    assert command_line(words(tmp_path / "1", one, *nothing_learned)) == 0
    # Waiting threads that sleep leave the other core to whoever else works on this machine.
    arguments = words(tmp_path / "2", two, *nothing_learned)
    surroundings = {**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}
    subprocess.run(
        [sys.executable, "-c", code, *arguments], env=surroundings, check=True, capture_output=True
    )
    first, second = (
        torch.cat([parameter.detach().flatten() for parameter in api.load(path).model.parameters()])
        for path in (one, two)
    )
    assert float((first == second).double().mean()) >= 0.999
