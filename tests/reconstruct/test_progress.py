"""What is said before and while learning goes on: memory, disk, time, and every step's loss to a listener."""

from __future__ import annotations

import copy
import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from rich.console import Console
from rich.progress import Progress, TextColumn
from transformers import SamModel

from saqsam import api
from saqsam.cli.app import run as command_line
from saqsam.cli.progress import Bars
from saqsam.recipe import load_recipe
from saqsam.reconstruct.cache import ACTIVATIONS
from saqsam.reconstruct.durations import in_words
from saqsam.reconstruct.estimate import Cost, Estimate
from saqsam.sam import Sam

UNITS = (
    *("encoder-stage-0", "encoder-stage-1", "neck"),
    *("decoder-layer-0", "decoder-layer-1", "final-attention"),
)
STEPS = 6
PLAIN = (
    *("weight_ranges.method=minmax", "activation_ranges.method=minmax", "clip.method=none"),
    "attention_grid=affine",
)
FEW = ("calibration.images=3", "calibration.prompts=2", f"reconstruct.iterations={STEPS}", *PLAIN)
Heard = list[tuple[str, int, dict[str, float], float]]


def listened(
    sam: SamModel, scenes: Path, recipe: str, run_dir: Path | None = None, *more: str
) -> tuple[Sam, Heard]:
    """A quantized tiny SAM, and what a listener heard."""
    heard: Heard = []

    def listener(unit: str, step: int, terms: Mapping[str, float], seconds_left: float) -> None:
        heard.append((unit, step, dict(terms), seconds_left))

    chosen = load_recipe(recipe, settings=(*FEW, *more))
    files = (scenes / "images", scenes / "instances.json")
    model = Sam(copy.deepcopy(sam), "tiny")
    return api.quantize(model, chosen, *files, run_dir=run_dir, listener=listener), heard


def test_a_listener_hears_every_step_with_its_terms_and_the_time_left(
    tiny_sam: SamModel, scenes: Path, tmp_path: Path
) -> None:
    whole = "reconstruct.whole_iterations=4"
    _, heard = listened(tiny_sam, scenes, "saq-sam-w4a4", tmp_path / "run", whole)
    expected = [(unit, step) for unit in UNITS for step in range(1, STEPS + 1)]
    expected += [("whole-model", step) for step in range(1, 5)]
    assert [(unit, step) for unit, step, _, _ in heard] == expected
    for unit, step, terms, _ in heard:
        parts = {"loss", "local", "prompt"}
        # The rounding term begins after a fifth of the steps, and the last unit has none.
        decides = unit != "whole-model" and step > 0.2 * STEPS + 1
        assert set(terms) == (parts | {"rounding"} if decides else parts), (unit, step)
        assert terms["loss"] == pytest.approx(terms["local"] + terms["prompt"])
    left = [seconds for *_, seconds in heard]
    assert all(seconds >= 0 for seconds in left)
    assert left[-1] < 0.3 * left[STEPS]
    log = [json.loads(line) for line in (tmp_path / "run/losses.jsonl").read_text().splitlines()]
    assert log == [{"unit": unit, "step": step, **terms} for unit, step, terms, _ in heard]


def test_single_layers_have_a_time_left_too(tiny_sam: SamModel, scenes: Path) -> None:
    _, heard = listened(tiny_sam, scenes, "adaround-w4a4")
    assert len({unit for unit, *_ in heard}) > 20
    left = [seconds for *_, seconds in heard]
    assert left[0] > left[-1] >= 0


def test_steps_that_are_done_again_are_heard_once(tiny_sam: SamModel, scenes: Path) -> None:
    heard: list[tuple[str, int]] = []

    def listener(unit: str, step: int, terms: Mapping[str, float], seconds_left: float) -> None:
        heard.append((unit, step))
        if (unit, step) == ("neck", 3):
            raise torch.OutOfMemoryError("CUDA out of memory")

    chosen = load_recipe("saq-sam-w4a4", settings=(*FEW, "reconstruct.batch=2"))
    files = (scenes / "images", scenes / "instances.json")
    result = api.quantize(Sam(tiny_sam, "tiny"), chosen, *files, listener=listener)
    assert [unit["at_once"] for unit in result.records["units"]] == [2, 2, 1, 1, 1, 1]
    assert heard == [(u, s) for u in UNITS for s in range(1, STEPS + 1)]


def test_only_what_is_learned_now_is_heard(tiny_sam: SamModel, scenes: Path, tmp_path: Path) -> None:
    listened(tiny_sam, scenes, "saq-sam-w4a4", tmp_path / "run")
    for unit in UNITS[4:]:
        (tmp_path / f"run/parts/{unit}.safetensors").unlink()
    _, heard = listened(tiny_sam, scenes, "saq-sam-w4a4", tmp_path / "run")
    assert {unit for unit, *_ in heard} == set(UNITS[4:])


def test_memory_disk_and_time_are_said_before_learning(
    tiny_sam: SamModel, scenes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="saqsam"):
        listened(tiny_sam, scenes, "saq-sam-w4a4", tmp_path / "run")
    said = [record.getMessage() for record in caplog.records]
    del said[0]  # which pictures it is calibrated on
    assert re.fullmatch(
        r"reconstruct: 6 units on 3 images, roughly \d+ s; at most 0\.\d\d GB of memory beside the model's "
        r"0\.00 GB: activations 0\.\d\d GB, a step 0\.\d\d GB, what a unit learns 0\.\d\d GB; "
        r"run directory up to 0\.\d\d GB",
        said[0],
    )
    assert said[1].startswith("reconstruct: about ")
    assert re.fullmatch(r"encoder-stage-0: loss .* \(3 images\), kept: \w+; about \d+ s left", said[2])
    assert said[-1].endswith("about 0 s left")

    planned = api.dry_run(
        Sam(tiny_sam, "tiny"),
        load_recipe("saq-sam-w4a4", settings=FEW),
        scenes / "images",
        scenes / "instances.json",
    )
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert planned.run_bytes == pytest.approx(sum(path.stat().st_size for path in files), rel=0.3)


def test_time_left_is_what_steps_and_passes_to_come_take() -> None:
    settings = load_recipe("saq-sam").reconstruct
    units = {"a": Cost(10, 1.0, 3.0), "b": Cost(10, 2.0, 4.0), "c": Cost(5, 3.0, 6.0)}
    estimate = Estimate(SamModel.__new__(SamModel), settings, 4, 0, torch.Generator(), units=units)
    # 6 of 10 steps of 2 s and 4 s of passes here; 5 steps of 3 s and 6 s of passes later.
    assert estimate.seconds_left("b", 4) == pytest.approx(6 * 2 + 4 + 15 + 6)
    assert estimate.seconds_left("b", 4, pace=0.5) == pytest.approx((6 * 2 + 4 + 15 + 6) / 2)
    assert [in_words(s) for s in (40, 720, 12600)] == ["40 s", "12 min", "3.5 h"]


PEAK = """
import sys, gc, ctypes
from pathlib import Path
import torch
torch.set_num_threads(1)
from saqsam import api
from saqsam.cli.app import run as command_line
from saqsam.cli.progress import Bars
from saqsam.shipped.embedded import embedded_sam
from saqsam.pipeline import calibrated_copy
from saqsam.recipe import load_recipe
from saqsam.reconstruct import walk
def resident(key):
    line, = (x for x in open("/proc/self/status") if x.startswith(key))
    return 1024 * int(line.split()[1])
scenes = Path(sys.argv[1])
recipe = load_recipe(sys.argv[2], settings=sys.argv[3:])
images = api.calibration_images(recipe, scenes / "images", scenes / "instances.json")
model = calibrated_copy(embedded_sam("nano"), recipe, images)
gc.collect(); ctypes.CDLL("libc.so.6").malloc_trim(0)
before, seen, said = resident("VmRSS"), [], walk.Estimate.said
walk.Estimate.said = lambda self, *rest: (seen.append(self.peak), said(self, *rest))[1]
open("/proc/self/clear_refs", "w").write("5")
walk.reconstruct(model, recipe, images)
print(seen[0], resident("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux to measure memory")
def test_the_memory_estimate_is_near_what_learning_takes(scenes: Path) -> None:
    """A loose bound, since a test must not depend on an allocator's mood; docs have measured figures."""
    few = (*PLAIN, "calibration.images=2", "reconstruct.iterations=1", "reconstruct.batch=2")
    words = [sys.executable, "-c", PEAK, str(scenes), "saq-sam-w4a4", *few]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    estimated, measured = map(int, done.stdout.split())
    assert 0.6 * measured < estimated < 1.6 * measured, (estimated, measured)


def test_the_progress_line_has_loss_and_time_left() -> None:
    screen = io.StringIO()
    with Progress(TextColumn("{task.description}"), console=Console(file=screen, width=120)) as drawn:
        bars = Bars(drawn)
        bars("neck", 0, 20)
        bars("neck", 3, 20)
        bars.heard("neck", 3, {"loss": 0.012348, "local": 0.01}, 150.0)
        bars.heard("unheard of", 3, {"loss": 1.0}, 150.0)
    assert "neck  loss 0.01235, all units 2 min" in screen.getvalue()


def test_the_command_line_takes_a_budget_and_resume_keeps_it(
    tiny_sam: SamModel, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_sam.save_pretrained(tmp_path / "model")
    run = tmp_path / "run"
    words = ["quantize", str(tmp_path / "model"), "--images", str(scenes / "images"), "--cache-gb", "0"]
    words += ["--recipe", "saq-sam-w4a4", "--run", str(run), "--out", str(tmp_path / "a.safetensors")]
    words += [word for setting in (*FEW, "reconstruct.iterations=1") for word in ("--set", setting)]
    assert command_line(words) == 0
    (run / "parts/final-attention.safetensors").unlink()
    (run / ACTIVATIONS).write_text("in the way of a folder of that name")
    capsys.readouterr()
    assert command_line(["resume", str(run), "--force"]) != 0, "nothing is held in memory, as before"
    assert ACTIVATIONS in capsys.readouterr().err
    assert command_line(["resume", str(run), "--force", "--cache-gb", "0.5"]) == 0
    assert command_line([*words, "--force", "--cache-gb", "-1"]) == 2
