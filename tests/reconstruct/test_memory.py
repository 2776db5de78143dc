"""Memory runs out while a unit learns: smaller parts of a step, the same learning, or a clear end."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from tests.conftest import make_tiny_sam
from transformers import SamModel

from saqsam.calibrate.images import CalibrationImage
from saqsam.errors import OutOfMemory
from saqsam.jobs.directory import open_run
from saqsam.modules.quantizer import Quantizer
from saqsam.pipeline import Report, quantize_model
from saqsam.recipe import Recipe, load_recipe
from saqsam.reconstruct import estimate, measure, walk
from saqsam.reconstruct.memory import is_out_of_memory
from saqsam.reconstruct.progress import Listener, nobody

Quantized = Callable[..., tuple[SamModel, Report]]
PLAIN = (
    *("weight_ranges.method=minmax", "activation_ranges.method=minmax", "clip.method=none"),
    "attention_grid=affine",
)
BATCH = "reconstruct.batch=4"


@pytest.fixture
def run(
    images_for: Callable[[Recipe], Sequence[CalibrationImage]],
) -> Callable[..., tuple[SamModel, Report]]:
    """Quantize in a run directory that is continued by a second call."""

    def quantize(directory: Path, listener: Listener = nobody, *more: str) -> tuple[SamModel, Report]:
        settings = ("calibration.images=4", "calibration.prompts=3", "reconstruct.iterations=4", BATCH)
        recipe = load_recipe("saq-sam-w4a4", settings=(*settings, *PLAIN, *more))
        model = make_tiny_sam()
        with open_run(directory, {}) as opened:
            return model, quantize_model(
                model, recipe, images_for(recipe), directory=opened, listener=listener
            )

    return quantize


def same(first: SamModel, second: SamModel) -> bool:
    """Whether all weights and all grids are equal, bit for bit."""
    scales = (
        [buffer for q in model.modules() if isinstance(q, Quantizer) for buffer in q.buffers()]
        for model in (first, second)
    )
    weights = zip(first.parameters(), second.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in (*weights, *zip(*scales, strict=True)))


def failing(unit: str, steps: Sequence[int], error: Exception) -> Listener:
    """Fails as a step does where memory is short.

    Each step is heard once, so each of ``steps`` fails once, also if the unit has begun again since.
    """

    def listener(name: str, step: int, terms: Mapping[str, float], seconds_left: float) -> None:
        if name == unit and step in steps:
            raise error

    return listener


def test_a_step_worked_through_in_parts_is_the_same_step(
    run: Callable[..., tuple[SamModel, Report]], tmp_path: Path
) -> None:
    """Losses of later steps tell gradients of earlier ones."""
    losses: list[dict[tuple[str, int], float]] = []
    error = torch.OutOfMemoryError("CUDA out of memory")
    for short in ((), (1,), (1, 2)):  # four images of a step at once, two, one
        seen: dict[tuple[str, int], float] = {}
        fails = failing("encoder-stage-0", short, error)

        def listener(name: str, step: int, terms: Mapping[str, float], left: float) -> None:
            fails(name, step, terms, left)  # noqa: B023
            seen[name, step] = terms["loss"]  # noqa: B023

        _, report = run(tmp_path / str(len(short)), listener, "reconstruct.quantized_share=1")
        assert {unit["at_once"] for unit in report.units} == {4 // 2 ** len(short)}
        losses.append(seen)
    assert len(losses[0]) == 6 * 4
    for other in losses[1:]:
        assert other.keys() | {("encoder-stage-0", step) for step in (1, 2)} == losses[0].keys()
        for key, loss in other.items():
            assert loss == pytest.approx(losses[0][key], rel=1e-3), key


def test_a_unit_begins_again_in_smaller_parts_and_gives_what_those_give(
    run: Callable[..., tuple[SamModel, Report]], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8.00 GiB.")
    with caplog.at_level(logging.WARNING, logger="saqsam"):
        model, report = run(tmp_path / "run", failing("neck", (3, 4), error))
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert told == [
        "neck: out of memory; begun again with 2 image(s) of a step at once",
        "neck: out of memory; begun again with 1 image(s) of a step at once",
    ]
    assert [unit["at_once"] for unit in report.units] == [4, 4, 1, 1, 1, 1]
    log = [json.loads(line) for line in (tmp_path / "run/losses.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log if line["unit"] == "neck"] == [1, 2, 3, 4]

    # Whenever memory runs out, nothing of the steps before is left in the result.
    assert same(run(tmp_path / "sooner", failing("neck", (1, 2), error))[0], model)

    # Resumed after the neck, the later units still take what the neck had to take.
    (tmp_path / "run/parts/final-attention.safetensors").unlink()
    resumed, again = run(tmp_path / "run")
    assert same(resumed, model)
    assert [unit["at_once"] for unit in again.units] == [4, 4, 1, 1, 1, 1]


def test_memory_that_is_short_for_a_single_image_ends_the_run_with_the_estimate(
    run: Callable[..., tuple[SamModel, Report]], tmp_path: Path
) -> None:
    short = failing("encoder-stage-0", (1, 2, 3), torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(
        OutOfMemory, match=r"learning on 4 images takes at most 0\.\d\d GB of memory .*calibration\.images"
    ):
        run(tmp_path / "run", short)


def test_other_errors_are_not_taken_for_a_lack_of_memory(
    run: Callable[..., tuple[SamModel, Report]], tmp_path: Path
) -> None:
    other = failing("encoder-stage-0", (1,), RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        run(tmp_path / "run", other)


def test_what_pytorch_really_says_when_memory_is_short() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 55)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(ValueError("DefaultCPUAllocator"))


def test_a_step_larger_than_the_machine_is_refused_before_it_is_taken(
    quantized: Quantized, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "usable_memory", lambda: 1e6)  # a machine that is too small for anything
    message = "encoder-stage-0: a learning step on one image holds more than the 0.0 GB"
    with pytest.raises(OutOfMemory, match=message):
        quantized("saq-sam-w4a4", BATCH)


def test_a_step_is_planned_in_parts_that_fit(
    quantized: Quantized, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What fits is known before the system ends the process for it."""
    beside, graph = _planned(quantized, caplog)
    fits = beside + 2.5 * graph
    monkeypatch.setattr(walk, "usable_memory", lambda: fits)
    _, report = quantized("saq-sam-w4a4", BATCH, "reconstruct.iterations=1")
    assert {unit["at_once"] for unit in report.units} == {2}
    assert "2 of a step's 4 images are worked through at once" in caplog.text


def _planned(quantized: Quantized, caplog: pytest.LogCaptureFixture) -> tuple[float, float]:
    """Bytes of everything but the step, and of a step on one image."""
    seen: list[tuple[float, float]] = []

    class Seen(Exception):
        """Nothing more has to be done."""

    def look(plan: estimate.Estimate, memory: float) -> int:
        most = max(plan.held, key=lambda moment: moment.graph)
        seen.append((most.activations + most.learned, most.graph / 4))
        raise Seen

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(estimate.Estimate, "fitting_together", look)
        with pytest.raises(Seen):
            quantized("saq-sam-w4a4", BATCH)
    caplog.clear()
    return seen[0]
