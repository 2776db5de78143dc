"""Other processes give what one gives, to the last digit, also when one of them is killed on the way."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from saqsam.many.run import SHARDS, run_many
from saqsam.many.shards import read_rows, shard_files
from saqsam.many.work import Item, Job, Row

from .conftest import Folder, Saqsam

# Ray's own code copies settings that Ray itself deprecates.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.* is deprecated:DeprecationWarning:ray"),
]


def test_segmented_by_two_processes_is_byte_for_byte_the_same(
    saqsam: Saqsam, folder: Folder, tmp_path: Path, ray_running: Any
) -> None:
    words = ("segment", "nano", folder.images, "--detections", folder.detections, "--json")
    assert saqsam(*words, "--out", tmp_path / "one.json").code == 0
    out = tmp_path / "run"
    done = saqsam(*words, "--out", out, "--on", "ray", "--workers", "2", "--shards", "jsonl")
    assert done.code == 0, done.err
    assert json.loads(done.out)["duplicates"] == 0
    assert (out / "results.json").read_bytes() == (tmp_path / "one.json").read_bytes()
    assert {path.suffix for path in shard_files(out / SHARDS)} == {".jsonl"}


def test_figures_of_another_process_are_equal_to_the_last_digit(
    saqsam: Saqsam, folder: Folder, ray_running: Any
) -> None:
    words = ("evaluate", "nano", "--images", folder.images, "--annotations", folder.annotations, "--json")
    words = (*words, "--reference", "nano-outliers")
    alone, together = saqsam(*words), saqsam(*words, "--on", "ray", "--workers", "1")
    assert (alone.code, together.code) == (0, 0), together.err
    one, two = json.loads(alone.out), json.loads(together.out)
    assert one.pop("seconds") > 0
    assert two.pop("seconds") > 0
    assert one == two
    assert 0.5 < one["AP"] < 1
    assert one["agreement"] > 0.999  # the outlier variant computes the same function


@dataclass(frozen=True)
class KilledOnce:
    """A job whose process is killed, as the kernel does when memory is short, at one image, once."""

    job: Job
    image: int
    marker: Path

    def start(self) -> Callable[[Item], Row]:
        answer = self.job.start()

        def work(item: Item) -> Row:
            if item.image.id == self.image and not self.marker.exists():
                self.marker.write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)
            return answer(item)

        return work


def test_a_killed_worker_costs_no_image(folder: Folder, tmp_path: Path, ray_running: Any) -> None:
    from saqsam.many.ray_workers import RayEngine

    ray_running.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    job, items, identity = folder.work()
    marker = tmp_path / "killed"
    found = run_many(
        KilledOnce(job, 8, marker),
        items,
        identity,
        tmp_path / "run",
        engine=RayEngine(workers=2),
        kind="parquet",
        images_each=3,
    )
    assert {path.suffix for path in shard_files(tmp_path / "run" / SHARDS)} == {".parquet"}
    assert int(marker.read_text()) != os.getpid()
    assert [row["image_id"] for row in found.rows] == [item.image.id for item in items]
    assert found.duplicates == 0
    written = [row["image_id"] for path in shard_files(tmp_path / "run" / SHARDS) for row in read_rows(path)]
    assert sorted(written) == sorted(item.image.id for item in items)
    alone = run_many(job, items, identity, tmp_path / "alone")
    assert alone.rows == found.rows


def test_an_error_in_a_worker_is_one_sentence(folder: Folder, tmp_path: Path, ray_running: Any) -> None:
    from saqsam.errors import RunError
    from saqsam.many.ray_workers import RayEngine

    job, items, identity = folder.work()
    directory = tmp_path / "run"
    run_many(job, items[:0], identity, directory)  # a run begun, nothing done
    (directory / "shards").rmdir()
    (directory / "shards").symlink_to(tmp_path / "nowhere")
    (tmp_path / "nowhere").mkdir()
    (tmp_path / "nowhere").chmod(0o500)
    if os.access(tmp_path / "nowhere", os.W_OK):
        pytest.skip("this user may write everywhere")
    with pytest.raises(RunError, match="a worker failed"):
        run_many(job, items, identity, directory, engine=RayEngine(workers=1))
