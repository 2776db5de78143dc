"""A short run of the script that edits packed models: nothing hangs, nothing escapes, memory is bounded."""

from __future__ import annotations

import random
from pathlib import Path

import fuzz_packed


def test_edited_models_are_loaded_or_refused_and_nothing_else(tmp_path: Path) -> None:
    model = fuzz_packed.small_model(tmp_path)
    (tmp_path / "scratch").mkdir()
    fuzzer = fuzz_packed.Fuzzer(model, tmp_path / "scratch", random.Random(7))
    tally = fuzz_packed.load_all(fuzzer, 60, seconds=10, megabytes=128)
    assert tally.failures == []
    assert tally.answers["loaded"] > 5
    assert tally.answers["CorruptCheckpoint"] > 20
