"""Runs that were stopped go on, other runs are refused, and merging names what is wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from tests.launcher import launcher

from saqsam.errors import RunError, RunMismatch
from saqsam.many.merge import merge
from saqsam.many.run import SHARDS, run_many
from saqsam.many.shards import read_rows, shard_files, write_shard
from saqsam.many.work import chunks

from .conftest import Folder, Saqsam

COMMAND = "from saqsam.cli import main; main()"
IMPORTS = (
    "import saqsam.api, saqsam.cli.app, saqsam.families.sam_modules, "
    "saqsam.many.run, saqsam.many.tasks, saqsam.datasets.listing"
)


def test_a_killed_run_goes_on_where_it_was(folder: Folder, tmp_path: Path) -> None:
    """No run is in this process, as a user's is not: how memory lies in it moves last digits."""
    words = ["segment", "nano", str(folder.images), "--detections", str(folder.detections), "--out"]
    out = tmp_path / "run"
    with launcher(IMPORTS, tmp_path) as programs:
        number = programs.start(COMMAND, [*words, str(out)])
        until = time.monotonic() + 60
        while not (found := list(out.glob("shards/*.jsonl"))):
            assert time.monotonic() < until
            time.sleep(0.002)
        os.kill(number, signal.SIGKILL)
        assert programs.wait().returncode == -signal.SIGKILL, "it had ended before it was killed"
        assert not (out / "results.json").exists()
        last = sorted(found)[0]
        kept = last.stat().st_mtime_ns
        for target in (out, tmp_path / "one.json"):
            done = programs.run(COMMAND, *words, str(target))
            assert done.returncode == 0, done.stderr
    assert last.stat().st_mtime_ns == kept  # not done again
    assert (out / "results.json").read_bytes() == (tmp_path / "one.json").read_bytes()


def test_another_model_or_other_prompts_are_refused_by_name(
    folder: Folder, tmp_path: Path, saqsam: Saqsam
) -> None:
    out = tmp_path / "run"
    tail = (folder.images, "--detections", folder.detections, "--out", out)
    assert saqsam("segment", "nano", *tail).code == 0
    before = (out / "results.json").read_bytes()
    other = saqsam("segment", "nano-outliers", *tail)
    assert other.code == 1
    assert "begun differently: model was" in other.err
    fewer = saqsam("segment", "nano", *tail, "--top-k", "1")
    assert fewer.code == 1
    assert "prompts was" in fewer.err
    assert "model" not in fewer.err.split("differently:")[1]
    assert (out / "results.json").read_bytes() == before
    assert saqsam("segment", "nano", *tail, "--top-k", "1", "--force").code == 0
    assert len(json.loads((out / "results.json").read_text())) < len(json.loads(before))


def test_a_bad_image_is_named_and_the_others_are_done(folder: Folder, tmp_path: Path, saqsam: Saqsam) -> None:
    images = tmp_path / "images"
    shutil.copytree(folder.images, images)
    victim = sorted(images.iterdir())[4]
    victim.write_bytes(victim.read_bytes()[:100])
    tail = ("--annotations", folder.annotations, "--out", tmp_path / "run")
    shown = saqsam("segment", "nano", images, "--detections", folder.detections, *tail)
    assert shown.code == 3
    assert "1 of 20 images" in shown.err
    assert victim.name in shown.err
    ids = {entry["image_id"] for entry in json.loads((tmp_path / "run" / "results.json").read_text())}
    assert len(ids) == 18  # one is damaged, nothing is asked on another
    words = ("evaluate", "nano", "--images", images, "--annotations", folder.annotations)
    measured = saqsam(*words, "--out", tmp_path / "figures")
    assert (measured.code, measured.out) == (3, "")
    assert victim.name in measured.err


def test_figures_from_shards_are_those_without(folder: Folder, tmp_path: Path, saqsam: Saqsam) -> None:
    words = ("evaluate", "nano", "--images", folder.images, "--annotations", folder.annotations, "--json")
    plain, kept = (json.loads(saqsam(*words, *more).out) for more in ((), ("--out", tmp_path / "run")))
    again = json.loads(saqsam(*words, "--out", tmp_path / "run").out)
    assert again == kept  # seconds too: nothing was done a second time
    assert plain.pop("seconds") > 0
    assert kept.pop("seconds") > 0
    assert plain == kept


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_merging_refuses_gaps_strangers_and_damage(folder: Folder, tmp_path: Path, kind: str) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    job, items, identity = folder.work()
    ids = [item.image.id for item in items]
    directory = tmp_path / "run"
    whole = run_many(job, items, identity, directory, kind=kind, images_each=5)
    shards = directory / SHARDS
    files = shard_files(shards)
    assert len(files) == 4
    assert whole.duplicates == 0

    shutil.copy(files[1], shards / f"copied.{kind}")
    twice = merge(shards, identity, ids)
    assert (twice.rows, twice.duplicates) == (whole.rows, 5)
    (shards / f"copied.{kind}").unlink()

    rows = read_rows(files[2])
    files[2].unlink()
    gap = ", ".join(str(one) for one in ids[10:15])
    with pytest.raises(RunError, match=f"no shard has 5 of 20 images: ids {gap};"):
        merge(shards, identity, ids)

    write_shard(files[2], {**identity, "recipe": {"name": "other"}}, rows)
    with pytest.raises(RunMismatch, match=r"another run: recipe.*"):
        merge(shards, identity, ids)

    files[2].write_bytes(b"\x00\xff" * 40)
    with pytest.raises(RunError, match="this shard is damaged"):
        merge(shards, identity, ids)

    files[2].unlink()
    assert run_many(job, items, identity, directory, kind=kind, images_each=5).rows == whole.rows
    with pytest.raises(RunError, match=f"not asked for; begin in a new directory: ids {ids[-1]}"):
        merge(shards, identity, ids[:-1])


def test_chunks_hold_every_item_once_in_order(folder: Folder) -> None:
    _, items, _ = folder.work()
    for size in (1, 3, 20, 50):
        parts = list(chunks(items, size))
        assert [item for part in parts for item in part.items] == items
        assert len({part.name for part in parts}) == len(parts) == -(-len(items) // size)
        assert [part.name for part in parts] == sorted(part.name for part in parts)


def test_options_that_do_not_fit_are_refused(folder: Folder, tmp_path: Path, saqsam: Saqsam) -> None:
    words = ("segment", "nano", folder.images, "--detections", folder.detections, "--out")
    for more, said in (
        ((tmp_path / "x", "--on", "dask"), "expected local or ray"),
        ((tmp_path / "x", "--workers", "2"), "--workers needs --on ray"),
        ((tmp_path / "x", "--shards", "csv"), "expected jsonl or parquet"),
        ((tmp_path / "x.json", "--shards", "jsonl"), "shards are written into a directory"),
        ((tmp_path / "no" / "x",), "create it first"),
    ):
        shown = saqsam(*words, *more)
        assert shown.code == 2
        assert said in shown.err
    assert not list(tmp_path.iterdir())


def test_without_ray_the_extra_is_named(
    folder: Folder, tmp_path: Path, saqsam: Saqsam, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    words = ("segment", "nano", folder.images, "--detections", folder.detections, "--out", tmp_path / "run")
    for more in (("--on", "ray"), ("--shards", "parquet")):
        shown = saqsam(*words, *more)
        assert shown.code == 2
        assert "pip install 'saqsam[ray]'" in shown.err
