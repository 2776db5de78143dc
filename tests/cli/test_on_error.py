"""``--on-error``: bad entries end a verb, or are left out, counted and listed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Ground, Saqsam


@pytest.fixture
def broken(ground: Ground, tmp_path: Path) -> Path:
    """The annotations of the ground with an outline of two corners, boxes off their image, a lost picture."""
    document: dict[str, Any] = json.loads(ground.annotations.read_text())
    first = document["annotations"][0]
    document["annotations"] += [
        {**first, "id": 901, "segmentation": [[1, 1, 2, 2]]},
        *({**first, "id": 910 + i, "bbox": [9000, 1, 2, 2]} for i in range(20)),
    ]
    document["images"].append({"id": 99, "file_name": "absent.png", "width": 8, "height": 8})
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(document))
    return path


def test_evaluate_leaves_out_what_is_bad(saqsam: Saqsam, ground: Ground, broken: Path) -> None:
    words = ("evaluate", "nano", "--images", ground.images, "--annotations")
    stopped = saqsam(*words, broken)
    assert (stopped.code, stopped.out) == (3, "")
    assert "annotation 0 " not in stopped.err
    assert "(and 19 more like it)" in stopped.err
    assert "--on-error skip" in stopped.err
    sound = saqsam(*words, ground.annotations, "--json").result
    assert sound["left_out"] == []
    found = saqsam(*words, broken, "--on-error", "skip", "--json").result
    assert len(found["left_out"]) == 22
    assert found["left_out"][0]["entry"].startswith("image ")
    assert "absent.png" in found["left_out"][0]["reason"]
    for key in set(sound) - {"seconds", "left_out", "notes"}:
        assert found[key] == sound[key], key
    shown = saqsam(*words, broken, "--on-error", "skip")
    assert shown.code == 0
    assert "left out 22 bad entries" in shown.out
    assert shown.out.count("broken.json: ") == 3


def test_shards_pictures_and_pages_leave_out_the_same(
    saqsam: Saqsam, ground: Ground, broken: Path, tmp_path: Path
) -> None:
    words = ("--images", ground.images, "--annotations", broken, "--on-error", "skip", "--json")
    whole = saqsam("evaluate", "nano", *words, "--show-dir", tmp_path / "shown").result
    assert len(list((tmp_path / "shown").iterdir())) == whole["images"] == 3
    shards = saqsam("evaluate", "nano", *words, "--out", tmp_path / "shards").result
    for key in set(whole) - {"seconds", "pictures"}:
        assert shards[key] == whole[key], key
    compared = saqsam("compare", "nano", ground.packed, *words, "--out", tmp_path / "side").result
    assert compared["results"][0]["left_out"] == whole["left_out"]


def test_quantize_and_its_run_leave_out_what_is_bad(
    saqsam: Saqsam, ground: Ground, broken: Path, tmp_path: Path
) -> None:
    words = ground.quantize("nano", tmp_path / "q.safetensors")
    words[words.index(str(ground.annotations))] = str(broken)
    assert "(and 19 more like it)" in saqsam(*words).err
    run = tmp_path / "run"
    found = saqsam(*words, "--on-error", "skip", "--run", run, "--json").result
    assert len(found["left_out"]) == 21  # the outline of two corners has a box, and no mask is needed
    other = tmp_path / "again.safetensors"
    again = saqsam("resume", run, "--out", other, "--json").result
    assert again["left_out"] == found["left_out"]


def test_a_folder_is_segmented_without_what_is_bad(
    saqsam: Saqsam, ground: Ground, folder: Path, tmp_path: Path
) -> None:
    entries = json.loads(ground.detections.read_text())
    bad = [
        {**entries[0], "bbox": [5, 5, 0, 9]},
        {**entries[0], "score": float("nan")},
        {**entries[0], "image_id": 77},
    ]
    (tmp_path / "boxes.json").write_text(json.dumps([*entries, *bad]))
    (folder / "000003.png").write_bytes((folder / "000003.png").read_bytes()[:300])
    words = ("segment", "nano", folder, "--detections", tmp_path / "boxes.json", "--json", "--out")
    stopped = saqsam(*words, tmp_path / "a.json")
    assert (stopped.code, stopped.out) == (3, "")
    assert "--on-error skip" in stopped.err
    for out in (tmp_path / "b.json", tmp_path / "shards"):
        done = saqsam(*words, out, "--on-error", "skip")
        assert done.code == 0
        assert [Path(one["file"]).name for one in done.result["left_out"]] == ["boxes.json"] * 3 + ["images"]
        assert [Path(one["file"]).name for one in done.result["unreadable"]] == ["000003.png"]
        assert (done.result["images"], done.result["masks"]) == (
            2,
            sum(one["image_id"] < 3 for one in entries),
        )
    good = ("segment", "nano", folder, "--detections", ground.detections, "--out", tmp_path / "c.json")
    told = saqsam(*good)
    assert told.code == 3
    assert "000003.png" in told.err
    assert (tmp_path / "c.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    listed = saqsam(*good, "--force", "--on-error", "skip")
    assert listed.code == 0
    assert "left out 1 bad entries" in listed.out


def test_another_word_is_a_usage_error(saqsam: Saqsam, ground: Ground) -> None:
    words = ("evaluate", "nano", "--images", ground.images, "--annotations", ground.annotations)
    shown = saqsam(*words, "--on-error", "ignore")
    assert shown.code == 2
    assert "--on-error ignore: expected stop or skip" in shown.err
