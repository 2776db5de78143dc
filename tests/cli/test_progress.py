"""Progress where stderr is no terminal: few lines, with the time left, and none for short work."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from saqsam.cli.progress import progress
from saqsam.cli.progress_lines import Lines


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def told(clock: Clock, said: list[str]) -> Lines:
    return Lines(said.append, clock)


def test_work_of_less_than_two_seconds_is_silent(told: Lines, said: list[str], clock: Clock) -> None:
    for stage in ("encoder ranges", "decoder ranges"):
        for done in range(4):
            told(stage, done, 3)
            clock.now += 0.24
    assert said == []


def test_each_stage_is_told_once_and_again_every_half_minute_with_the_time_left(
    told: Lines, said: list[str], clock: Clock
) -> None:
    told("encoder ranges", 0, 10)
    for done in range(1, 11):
        clock.now += 12
        told("encoder ranges", done, 10)
    told("weights", 0, 4)
    assert said == [
        "saqsam: encoder ranges 1/10, 12 s so far, 2 min left",
        "saqsam: encoder ranges 4/10, 48 s so far, 72 s left",
        "saqsam: encoder ranges 7/10, 84 s so far, 36 s left",
        "saqsam: encoder ranges 10/10, 2 min so far",
        "saqsam: weights 0/4",
    ]


def test_a_step_of_minutes_is_not_silent(told: Lines, said: list[str], clock: Clock) -> None:
    told("build", 0, 1)
    for _ in range(65):
        clock.now += 1
        told.tick()
    assert said == [
        "saqsam: build 0/1, 2 s so far",
        "saqsam: build 0/1, 32 s so far",
        "saqsam: build 0/1, 62 s so far",
    ]


def test_loading_before_any_stage_is_told_too(told: Lines, said: list[str], clock: Clock) -> None:
    clock.now += 31
    told.tick()
    assert said == ["saqsam: starting, 31 s so far"]


def test_what_was_done_before_does_not_count_as_speed(told: Lines, said: list[str], clock: Clock) -> None:
    clock.now += 3
    told("segment", 900, 1000)
    clock.now += 30
    told("segment", 910, 1000)
    assert said[-1] == "saqsam: segment 910/1000, 30 s so far, 4 min left"


def test_learning_tells_its_loss_and_the_time_of_all_units(
    told: Lines, said: list[str], clock: Clock
) -> None:
    clock.now += 3
    told("neck", 0, 100)
    for step in range(1, 40):
        clock.now += 1
        told("neck", step, 100)
        told.heard("neck", step, {"loss": 0.25}, 600.0)
    assert said == [
        "saqsam: neck 0/100",
        "saqsam: neck 30/100, 30 s so far, loss 0.25, 10 min left for all units",
    ]


def test_a_stage_that_comes_for_every_picture_is_told_once(
    told: Lines, said: list[str], clock: Clock
) -> None:
    for picture in range(20):
        told("images", picture, 20)
        for done in range(3):
            told("clicks", done, 2)
            clock.now += 0.5
    assert sorted(line.split()[1] for line in said) == ["clicks", "images"]


def test_a_log_of_long_work_holds_its_stages_and_no_bars() -> None:
    code = (
        "import time\n"
        "from saqsam.cli.progress import progress\n"
        "with progress() as report:\n"
        "    report('reading', 0, 2); time.sleep(2.2); report('reading', 1, 2); report('writing', 0, 5)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == ""
    lines = run.stderr.splitlines()
    assert lines[0].startswith("saqsam: reading ")
    assert lines[-1] == "saqsam: writing 0/5"
    assert all(
        re.fullmatch(r"saqsam: (reading|writing) \d/\d(, \d s so far)?(, \d s left)?", one) for one in lines
    )


def test_a_reader_that_has_gone_does_not_end_the_work() -> None:
    code = (
        "import os, time, sys\n"
        "from saqsam.cli.progress import progress\n"
        "with progress() as report:\n"
        "    reader, writer = os.pipe(); os.close(reader); os.dup2(writer, 2)\n"
        "    time.sleep(2.1); report('reading', 0, 2); report('writing', 0, 5)\n"
        "print('done'); sys.stdout.flush(); os._exit(0)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "done\n"


def test_short_work_through_the_same_door_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as report:
        report("audit", 0, 2)
        report("audit", 2, 2)
    assert capsys.readouterr().err == ""
