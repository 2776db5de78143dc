"""``quantize``, ``resume``, ``recipe show`` and ``evaluate --as-published`` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from saqsam import api
from saqsam.errors import RunLocked
from saqsam.recipe import load_recipe

if TYPE_CHECKING:
    from tests.cli.conftest import Ground, Saqsam

QUICK = (
    *("--set", "reconstruct.iterations=2", "--set", "calibration.images=2", "--set", "calibration.prompts=1"),
    *("--set", "clip.method=none", "--set", "reconstruct.encoder=none"),
    *("--set", "weight_ranges.method=minmax", "--set", "activation_ranges.method=minmax"),
)
PLAIN = ("--set", "clip.method=none", "--set", "weight_ranges.method=minmax")


def test_it_says_what_it_was_calibrated_on(saqsam: Saqsam, ground: Ground, tmp_path: Path) -> None:
    words = ("quantize", "nano", "--recipe", "rtn", "--images", ground.images, "--out")
    shown = saqsam(*words, tmp_path / "a.safetensors")
    line = f"3 of 3 pictures in {ground.images}; the recipe asks for 32"
    assert f"calibrated on {line}" in shown.out
    assert f"calibrating on {line}" in shown.err
    found = saqsam(*words, tmp_path / "b.safetensors", "--json").result
    assert found["calibration"] == {
        "used": 3,
        "seen": 3,
        "asked": 32,
        "where": str(ground.images),
        "notes": [],
    }


def test_a_finished_run_says_so_and_files_are_equal(saqsam: Saqsam, ground: Ground, tmp_path: Path) -> None:
    out, run = tmp_path / "a.safetensors", tmp_path / "run"
    words = ("quantize", "nano", "--recipe", "saq-sam", *QUICK, "--images", ground.images, "--out")
    assert saqsam(*words, out, "--run", run).code == 0
    again = saqsam("resume", run)
    assert again.code == 0
    assert f"this run is finished, nothing was left to do; its result is {out}" in again.out
    assert saqsam("resume", run, "--json").result["finished"] is True
    refused = saqsam(*words, out, "--run", run)
    assert refused.code == 2
    assert f"--run {run}: this run is finished and {out} is its result" in refused.err
    seconds = json.loads((run / "finished.json").read_text())["seconds"]
    assert seconds["reconstruct"] > 0
    # Neither the run directory, nor where parts came from, nor how long it took is in the file.
    (run / "parts" / "final-attention.safetensors").unlink()
    assert saqsam("resume", run, "--out", tmp_path / "b.safetensors").code == 0
    assert saqsam(*words, tmp_path / "c.safetensors").code == 0
    assert out.read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert out.read_bytes() == (tmp_path / "c.safetensors").read_bytes()


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_one_half_alone_is_quantized_and_packed(
    saqsam: Saqsam, ground: Ground, tmp_path: Path, half: str
) -> None:
    out = tmp_path / "half.safetensors"
    words = ("quantize", "nano", "--recipe", "best-closed-form", "--images", ground.images, "--out", out)
    quick = ("--set", "calibration.images=1", "--set", "mixed.probes=1", "--set", "mixed.offsets=1", *PLAIN)
    assert saqsam(*words, *quick, "--set", "calibration.prompts=1", "--only", half).code == 0
    sam = api.load(out)
    expected = {"encoder": "vision_encoder.", "decoder": "mask_decoder."}[half]
    assert {row["path"].partition(".")[0] + "." for row in sam.inspect()["sites"]} == {expected}
    assert sam.bits == {"encoder": "w4a4/float mixed", "decoder": "float/w4a4 mixed"}[half]
    assert saqsam("verify", out).code == 0


@pytest.mark.parametrize("recipe", ["rtn", "saq-sam", "best-closed-form", "adaround", "ahcptq"])
def test_a_dry_run_says_what_it_takes_and_writes_nothing(
    saqsam: Saqsam, ground: Ground, tmp_path: Path, recipe: str
) -> None:
    words = ("quantize", "nano", "--recipe", recipe, "--images", ground.images, "--dry-run")
    quick = ("--set", "calibration.prompts=1", "--set", "mixed.probes=1", "--set", "clip.max_queries=8")
    quick += ("--set", "weight_ranges.method=minmax", "--set", "activation_ranges.method=minmax")
    found = saqsam(*words, *quick, "--json").result
    assert (found["images"], found["prompts"]) == (3, 3)
    assert found["sites"] > 150
    assert found["float_sites"] == 0
    learns = load_recipe(recipe).reconstruct
    assert (found["steps"] > 0) == (learns.encoder != "none" and learns.rounding == "adaround")
    assert found["encoder_passes"] >= 3
    assert found["total_seconds"] == pytest.approx(sum(found["seconds"].values()))
    packed = ground.packed.stat().st_size
    assert 0.8 * packed < found["file_bytes"] <= packed
    assert found["memory_bytes"] > 100e6
    assert list(tmp_path.iterdir()) == []


def test_recipes_are_compared(saqsam: Saqsam) -> None:
    found = saqsam("recipe", "show", "saq-sam-paper", "--diff", "saq-sam", "--json").result
    changed = {one["key"]: one["values"] for one in found["differences"]}
    assert changed["reconstruct.iterations"] == [2000, 500]
    assert "differ in nothing" in saqsam("recipe", "show", "mse", "--diff", "mse").out
    assert "w4a4" not in saqsam("recipe", "show", "mse", "--bits", "w6a6", "--diff", "mse").out
    assert "encoder.weights" in saqsam("recipe", "show", "mse", "--bits", "w6a6", "--diff", "mse").out


def test_the_published_figure_stands_beside_the_honest_one(
    saqsam: Saqsam, ground: Ground, tmp_path: Path
) -> None:
    recipe = tmp_path / "quick.yaml"
    recipe.write_text(
        "name: quick\nencoder: {weights: 3, activations: 3}\n"
        "reconstruct: {encoder: none, decoder: local, iterations: 2, batch: 1}\n"
        "calibration: {images: 1, prompts: 2}\n"
    )
    where = ("--images", ground.images, "--annotations", ground.annotations, "--limit", "2")
    words = ("evaluate", "nano", *where, "--as-published", recipe)
    refused = saqsam(*words)
    assert refused.code == 2
    assert "give --calibration DIR" in refused.err
    found = saqsam(*words, "--calibration", ground.images, "--json").result
    assert found["float"]["bits"] == "float"
    assert found["as_published"]["bits"].endswith("not on the grid")
    assert found["on_grid"]["agreement"] < 1
    assert 0 < found["off_grid"]["weights"] < 1
    again = saqsam(*words, "--calibration", ground.images, "--json").result
    assert again["as_published"]["AP"] == found["as_published"]["AP"], "coins fall from the recipe's seed"
    words = ("evaluate", ground.packed, *where, "--as-published", recipe)
    mismatched = saqsam(*words, "--calibration", ground.images)
    assert "give its float model as --reference" in mismatched.err


def test_who_finds_a_directory_locked_exits_with_the_documented_code() -> None:
    assert RunLocked("x").exit_code == 1
