"""A budget for activations changes where they lie and nothing else."""

from __future__ import annotations

import copy
import errno
import gc
import tempfile
from collections.abc import Callable
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from transformers import SamModel

from saqsam import api
from saqsam.errors import OutOfDisk, UsageError
from saqsam.recipe import load_recipe
from saqsam.reconstruct import cache as cache_module
from saqsam.reconstruct.cache import Cache, Kept
from saqsam.sam import Sam

FEW = (
    *("calibration.images=3", "calibration.prompts=2", "clip.method=none", "reconstruct.iterations=3"),
    *("weight_ranges.method=minmax", "activation_ranges.method=minmax"),
)
WHOLE = ("reconstruct.whole_iterations=2", "reconstruct.batch=2")


@pytest.fixture
def run(tiny_sam: SamModel, scenes: Path) -> Callable[..., Sam]:
    """Quantize the tiny SAM with a budget for activations."""

    def quantize(recipe: str, cache_gb: float | None, run_dir: Path | None = None, *more: str) -> Sam:
        chosen = load_recipe(recipe, settings=(*FEW, *more))
        files = (scenes / "images", scenes / "instances.json")
        sam = Sam(copy.deepcopy(tiny_sam), "tiny")
        return api.quantize(sam, chosen, *files, run_dir=run_dir, cache_gb=cache_gb)

    return quantize


def same(first: Sam, second: Sam) -> bool:
    """Whether all tensors are equal, bit for bit."""
    found, expected = first.model.state_dict(), second.model.state_dict()
    return found.keys() == expected.keys() and all(
        torch.equal(x, expected[name]) for name, x in found.items()
    )


@pytest.mark.parametrize(
    ("recipe", "more"),
    [("saq-sam-w4a4", WHOLE), ("adaround-w4a4", ()), ("best-closed-form-w4a4", ("mixed.enabled=false",))],
)
def test_a_budget_changes_no_bit_and_leaves_no_file(
    run: Callable[..., Sam],
    tmp_path: Path,
    recipe: str,
    more: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    written = []
    in_file = Cache.in_file
    monkeypatch.setattr(Cache, "in_file", lambda self, x: (written.append(x.nbytes), in_file(self, x))[1])
    memory = run(recipe, None, None, *more)
    assert not written
    for budget, run_dir in ((0.0, tmp_path / "run"), (3e-5, None)):
        written.clear()
        filed = run(recipe, budget, run_dir, *more)
        assert written
        assert same(filed, memory), budget
        assert filed.records["units"] == memory.records["units"]
    assert not (tmp_path / "run" / "activations").exists()
    assert not list((tmp_path / "temporary").iterdir())


def test_a_full_disk_says_so_and_the_run_goes_on_afterwards(
    run: Callable[..., Sam], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, files = tempfile.mkstemp, []

    def scarce(*arguments: object, **keywords: object) -> tuple[int, str]:
        files.append(keywords)
        if len(files) > 12 and Path(str(keywords["dir"])).name == "activations":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments, **keywords)  # type: ignore[call-overload, no-any-return]

    # A limit on the size of files would meet the larger file of the calibration first.
    monkeypatch.setattr(cache_module.tempfile, "mkstemp", scarce)
    with pytest.raises(OutOfDisk, match=r"run/activations: no space left for activations .*--cache-gb"):
        run("saq-sam-w4a4", 0.0, tmp_path / "run")
    monkeypatch.undo()
    finished = {path.stem for path in (tmp_path / "run/parts").iterdir()}
    assert "calibration" in finished
    assert "final-attention" not in finished
    assert not (tmp_path / "run/activations").exists()
    assert same(run("saq-sam-w4a4", 0.0, tmp_path / "run"), run("saq-sam-w4a4", None))


def test_what_a_killed_process_left_is_removed(run: Callable[..., Sam], tmp_path: Path) -> None:
    run("saq-sam-w4a4", None, tmp_path / "run", "reconstruct.iterations=1")
    (tmp_path / "run/activations").mkdir()
    (tmp_path / "run/activations/old.part").write_bytes(b"left")
    run("saq-sam-w4a4", 0.0, tmp_path / "run", "reconstruct.iterations=1")
    assert not (tmp_path / "run/activations").exists()


def test_the_budget_comes_back_with_what_is_dropped(tmp_path: Path) -> None:
    cache = Cache(1000, tmp_path)
    first = cache.keep((torch.zeros(100),) for _ in range(2))
    second = cache.keep([(torch.ones(100),)])
    assert (cache.in_memory, cache.in_files) == (800, 400)
    first.drop(0)
    first.drop(0)
    assert (cache.in_memory, len(first), first[0]) == (400, 2, ())
    del first
    gc.collect()
    assert cache.in_memory == 0
    third = cache.keep([(torch.ones(250),)])
    assert (cache.in_memory, cache.in_files) == (1000, 400)
    assert torch.equal(second[0][0], torch.ones(100))
    cache.close()
    assert torch.equal(second[0][0], third[0][0][:100])
    assert not list(tmp_path.iterdir())


def test_what_passes_through_is_kept_once(tmp_path: Path) -> None:
    """As the finer levels of a SAM 2 do, in memory and in files."""
    for budget, place in ((None, "in_memory"), (0.0, "in_files")):
        cache = Cache(budget, tmp_path)
        first = cache.keep((torch.zeros(10), torch.ones(100)) for _ in range(2))
        second = cache.keep((state[0] + 1, state[1]) for state in first)
        assert getattr(cache, place) == 2 * (40 + 400 + 40)
        first.drop(0)
        del first
        gc.collect()
        assert cache.in_memory == (2 * 440 if budget is None else 0)
        assert torch.equal(second[1][1], torch.ones(100))
        del second
        gc.collect()
        assert cache.in_memory == 0
        cache.close()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is told by Linux")
def test_files_that_were_read_do_not_stay_in_memory(tmp_path: Path) -> None:
    def of_files() -> int:
        words = Path("/proc/self/status").read_text().split()
        return int(words[words.index("RssFile:") + 1]) * 1024

    cache, one = Cache(0.0, tmp_path), 8_000_000
    before, descriptors = of_files(), len(list(Path("/proc/self/fd").iterdir()))
    first, second = (cache.keep((torch.ones(one // 4),) for _ in range(8)) for _ in range(2))
    for (x,), (y,) in zip(first, second, strict=True):
        assert torch.equal(x, y)
    assert of_files() - before < 4 * one
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors  # there are only so many
    cache.close()


def test_a_budget_below_nothing_is_refused(run: Callable[..., Sam]) -> None:
    for budget in (-1.0, float("nan")):
        with pytest.raises(UsageError, match="cache_gb"):
            run("saq-sam-w4a4", budget)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.int64]),
    st.sampled_from(["plain", "transposed", "part", "expanded"]),
)
def test_any_tensor_comes_back_from_a_file_as_from_memory(
    shape: list[int], kind: torch.dtype, form: str
) -> None:
    x = (torch.randn(shape) * 100).to(kind)
    if form == "transposed":
        x = x.movedim(0, -1)
    elif form == "part":
        x = torch.cat([x, x])[1:]
    elif form == "expanded":
        x = x.expand(3, *shape)
    with tempfile.TemporaryDirectory() as place:
        (memory,), (filed,) = (Cache(budget, Path(place)).keep([(x,)])[0] for budget in (None, 0))
    assert torch.equal(memory, x)
    assert torch.equal(filed, x)
    assert (filed.stride(), filed.dtype) == (memory.stride(), memory.dtype)


def test_kept_is_a_sequence() -> None:
    kept: Kept = Cache().keep((torch.full((2,), float(i)),) for i in range(4))
    assert [float(x[0]) for (x,) in kept] == [0.0, 1.0, 2.0, 3.0]
    assert [float(x[0]) for (x,) in kept[1:3]] == [1.0, 2.0]
