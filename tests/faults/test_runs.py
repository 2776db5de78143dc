"""Long jobs are killed, started twice, run out of disk: what is finished stays, the result is the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.forked import forked
from transformers import SamModel

from saqsam import api
from saqsam.cli.app import run as command_line
from saqsam.errors import CorruptCheckpoint, RunError, RunLocked, RunMismatch
from saqsam.jobs.directory import open_run
from saqsam.models.attach import all_quantizers
from saqsam.models.sites import WEIGHT
from saqsam.pack.file import read_packed
from saqsam.recipe import load_recipe
from saqsam.sam import Sam
from saqsam.scenes import write_scenes

SETTINGS = (
    *("calibration.images=3", "calibration.prompts=2", "clip.method=none"),
    *("weight_ranges.method=minmax", "activation_ranges.method=minmax"),
    *("reconstruct.iterations=4", "reconstruct.batch=2"),
)
RECIPE = "saq-sam-w4a4"
UNITS = (
    *("encoder-stage-0", "encoder-stage-1", "neck"),
    *("decoder-layer-0", "decoder-layer-1", "final-attention"),
)
_finished: dict[Path, Sam] = {}


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the model and the scenes of all tests here are kept."""
    return tmp_path_factory.mktemp("bench")


@pytest.fixture
def workshop(bench: Path, tiny_sam: SamModel) -> Path:
    """A directory with a tiny SAM in ``model`` and four generated images in ``scenes``."""
    if not (bench / "scenes").exists():
        tiny_sam.save_pretrained(bench / "model")
        write_scenes(bench / "scenes", 4, seed=5, size=(64, 64))
    return bench


Run = Callable[..., Sam]


@pytest.fixture
def run(workshop: Path) -> Run:
    """Quantize the model by the recipe, perhaps in a run directory, perhaps with further settings."""

    def quantize(
        run_dir: Path | None,
        *settings: str,
        progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
    ) -> Sam:
        scenes = workshop / "scenes"
        return api.quantize(
            api.load(workshop / "model"),
            load_recipe(RECIPE, settings=(*SETTINGS, *settings)),
            scenes / "images",
            scenes / "instances.json",
            progress=progress,
            run_dir=run_dir,
        )

    return quantize


@pytest.fixture
def uninterrupted(run: Run, bench: Path) -> Sam:
    """The result without any run directory."""
    if bench not in _finished:
        _finished[bench] = run(None)
    return _finished[bench]


def assert_same_integers(found: Sam, expected: Sam) -> None:
    """Same grids and same weights on them, bit for bit."""
    first, second = all_quantizers(found.model), all_quantizers(expected.model)
    assert list(first) == list(second)
    for site, quantizer in first.items():
        assert quantizer.grid.to_packed() == second[site].grid.to_packed(), site.name
        if site.role == WEIGHT:
            weights = (sam.model.get_submodule(site.path).weight for sam in (found, expected))
            assert torch.equal(*weights), site.name


class Killed(BaseException):
    """Stands for a process that dies in the middle of a step."""


@pytest.mark.parametrize(("unit", "step"), [(UNITS[0], 2), (UNITS[4], 3), ("audit", 1)])
def test_a_run_that_died_is_taken_up_and_ends_the_same(
    run: Run, uninterrupted: Sam, tmp_path: Path, caplog: pytest.LogCaptureFixture, unit: str, step: int
) -> None:
    def die(stage: str, done: int, total: int) -> None:
        if (stage, done) == (unit, step):
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "run", progress=die)
    finished = {path.stem: path.stat().st_mtime_ns for path in (tmp_path / "run/parts").iterdir()}
    assert set(finished) == {"calibration", *UNITS[: UNITS.index(unit) if unit in UNITS else None]}

    worked_on: set[str] = set()
    with caplog.at_level("INFO", "saqsam"):
        resumed = run(tmp_path / "run", progress=lambda stage, done, total: worked_on.add(stage))
    ahead = 1 + len(UNITS) - len(finished)
    assert f"reconstruct: {ahead} units on 3 images" in caplog.text, "what lies ahead is what is unfinished"
    assert not worked_on & set(finished), "a finished unit was learned again"
    assert "encoder ranges" not in worked_on
    kept = {name: (tmp_path / f"run/parts/{name}.safetensors").stat().st_mtime_ns for name in finished}
    assert kept == finished
    assert_same_integers(resumed, uninterrupted)
    assert resumed.records["units"] == uninterrupted.records["units"]
    lines = [json.loads(line) for line in (tmp_path / "run/losses.jsonl").read_text().splitlines()]
    assert [(line["unit"], line["step"]) for line in lines] == [(u, s) for u in UNITS for s in (1, 2, 3, 4)]
    assert all(line["loss"] > 0 for line in lines)


def test_sigkill_and_resume_from_the_command_line(workshop: Path, uninterrupted: Sam, tmp_path: Path) -> None:
    scenes, directory, out = workshop / "scenes", tmp_path / "run", tmp_path / "out.safetensors"
    words = [
        "quantize",
        str(workshop / "model"),
        "--recipe",
        RECIPE,
        "--out",
        str(out),
        "--run",
        str(directory),
    ]
    words += ["--images", str(scenes / "images"), "--annotations", str(scenes / "instances.json")]
    words += [word for setting in SETTINGS for word in ("--set", setting)]
    process, until = forked(words), time.monotonic() + 60
    while not (directory / f"parts/{UNITS[1]}.safetensors").exists() and time.monotonic() < until:
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(process, 0)[1]), "the run ended before it could be killed"
    assert not out.exists()
    assert command_line(["resume", str(directory), "--json"]) == 0
    packed = read_packed(out)
    assert packed.records["units"] == uninterrupted.records["units"]
    assert_same_integers(api.load(out), uninterrupted)


def test_another_recipe_is_refused_with_the_field_that_differs(run: Run, tmp_path: Path) -> None:
    def die(stage: str, done: int, total: int) -> None:
        raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "run", progress=die)
    with pytest.raises(RunMismatch, match=r"recipe\.reconstruct\.batch was 2, now 1") as caught:
        run(tmp_path / "run", "reconstruct.batch=1")
    assert "calibration" not in str(caught.value)


def test_another_model_or_image_is_refused(run: Run, tmp_path: Path, workshop: Path) -> None:
    identity = {"recipe": {"name": "x"}, "model": "abc", "images": {"0000 a.png": {"file": "1"}}}
    with open_run(tmp_path / "run", identity):
        pass
    with (
        pytest.raises(RunMismatch, match=r"images\.0000 a\.png\.file was 1, now 2"),
        open_run(tmp_path / "run", {**identity, "images": {"0000 a.png": {"file": "2"}}}),
    ):
        pass
    with pytest.raises(RunMismatch, match="model was abc, now "):
        run(tmp_path / "run")


def test_two_processes_cannot_work_in_one_directory(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    code = (
        "import sys, time, pathlib\n"
        "from saqsam.jobs.lock import locked\n"
        "with locked(pathlib.Path(sys.argv[1])):\n"
        "    pathlib.Path(sys.argv[2]).touch(); time.sleep(600)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(ready)])
    try:
        while not ready.exists():
            assert holder.poll() is None
            time.sleep(0.01)
        with pytest.raises(RunLocked, match=f"process {holder.pid} on "), open_run(tmp_path, {}):
            pass
    finally:
        holder.kill()
        holder.wait()
    ready.unlink()
    with open_run(tmp_path, {}):  # the lock went with its process
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


def test_a_directory_with_other_files_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunError, match=r"holds 'thesis\.tex' and no run"), open_run(tmp_path, {}):
        pass
    assert [path.name for path in tmp_path.iterdir() if path.name != "lock"] == ["thesis.tex"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign"])
def test_a_damaged_part_is_named(tmp_path: Path, damage: str) -> None:
    with open_run(tmp_path / "run", {}) as directory:
        directory.save("neck", {"x": torch.arange(100.0)}, {"a": 1})
        path = tmp_path / "run/parts/neck.safetensors"
        data = bytearray(path.read_bytes())
        if damage == "flipped":
            data[-5] ^= 1
        path.write_bytes({"cut": data[:-9], "flipped": data, "foreign": b"hello"}[damage])
        with pytest.raises(CorruptCheckpoint, match=r"neck\.safetensors.*Delete the file"):
            directory.load("neck")
