"""Which way up annotations count the pixels of rotated images: decided for a set, or refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from saqsam import api
from saqsam.cli.app import run
from saqsam.datasets.coco import read_instances
from saqsam.datasets.framed import framed
from saqsam.datasets.instances import InstanceSet, open_listed
from saqsam.datasets.listing import ListedImage, from_folder, in_frame
from saqsam.errors import AnnotationError, ImageError, UnknownFrame, UsageError
from saqsam.images.files import open_image
from saqsam.images.headers import read_header
from saqsam.sam import Sam
from saqsam.tasks.oriented_set import read_oriented
from saqsam.tasks.semantic_maps import open_semantic_image, read_semantic

TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How an upright image is stored under a tag: the inverse of what the tag asks for."""


def pixels_of(height: int, width: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(height + 1000 * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray[Any, Any], orientation: int, displayed: bool) -> None:
    """An image that shows ``pixels`` to those who follow its tag (``displayed``), or to those who do not."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    picture = Image.fromarray(pixels)
    picture = picture.transpose(TURNED[orientation]) if displayed and orientation != 1 else picture
    picture.save(path, exif=tags)


def written(
    folder: Path,
    images: Sequence[tuple[tuple[int, int], int]],
    displayed: bool | Sequence[bool],
    box: Sequence[float] = (2, 3, 10, 12),
) -> InstanceSet:
    """A set of PNGs of (height, width) and orientation as annotated, each with one object."""
    frames = [displayed] * len(images) if isinstance(displayed, bool) else displayed
    entries, annotations = [], []
    for place, (((height, width), orientation), frame) in enumerate(zip(images, frames, strict=True)):
        save(folder / f"{place}.png", pixels_of(height, width), orientation, frame)
        entries.append({"id": place, "file_name": f"{place}.png", "width": width, "height": height})
        x, y, across, down = box
        outline = [x, y, x + across, y, x + across, y + down, x, y + down]
        ids = {"id": place + 1, "image_id": place, "category_id": 1, "area": across * down}
        annotations.append({**ids, "bbox": list(box), "segmentation": [outline]})
    document = {"images": entries, "categories": [{"id": 1, "name": "a"}], "annotations": annotations}
    (folder / "a.json").write_text(json.dumps(document))
    return read_instances(folder / "a.json", folder)


@pytest.mark.parametrize("displayed", [False, True], ids=["stored", "displayed"])
@pytest.mark.parametrize("orientation", TURNED)
def test_one_image_that_tells_decides_for_all(tmp_path: Path, orientation: int, displayed: bool) -> None:
    shapes = [((40, 40), orientation), ((30, 50), orientation), ((30, 50), 6), ((30, 30), 1)]
    found = framed(written(tmp_path, shapes, displayed))
    for record, (shape, _) in zip(found.images, shapes, strict=True):
        assert np.array_equal(open_listed(record).pixels, pixels_of(*shape))
    (note,) = found.notes
    word, other = ("displayed", "stored") if displayed else ("stored", "displayed")
    assert f"3 rotated or mirrored images taken as {word}" in note
    assert f"--exif {other}" in note


@pytest.mark.parametrize("shape", [(40, 40), (30, 50)])
@pytest.mark.parametrize("orientation", [2, 3, 4, 6])
def test_where_nothing_tells_it_is_not_guessed(
    tmp_path: Path, shape: tuple[int, int], orientation: int
) -> None:
    if orientation == 6:
        shape = (40, 40)
    dataset = written(tmp_path, [(shape, orientation), ((30, 50), 1)], displayed=True)
    with pytest.raises(UnknownFrame, match=r"--exif stored .*--exif displayed") as caught:
        framed(dataset)
    assert str(caught.value).startswith(f"{tmp_path / 'a.json'}: ")
    assert "0.png" in str(caught.value)
    with pytest.raises((UnknownFrame, ImageError)) if orientation == 6 else pytest.raises(UnknownFrame):
        open_listed(dataset.images[0])
    for exif in ("stored", "displayed"):
        (record, _) = framed(dataset, exif).images
        seen = open_image(tmp_path / "0.png", apply_exif=exif == "displayed").pixels
        assert np.array_equal(open_listed(record).pixels, seen)


def test_images_that_are_not_asked_for_do_not_ask_for_a_decision(tmp_path: Path) -> None:
    dataset = written(tmp_path, [((30, 50), 1), ((40, 40), 3)], displayed=True)
    assert framed(dataset, limit=1).notes == ()
    with pytest.raises(UnknownFrame):
        framed(dataset)


def test_images_beyond_the_limit_are_evidence(tmp_path: Path) -> None:
    dataset = written(tmp_path, [((40, 40), 3), ((30, 50), 8)], displayed=True)
    (record,) = framed(dataset, limit=1).images
    assert record.apply_exif is True


def test_sizes_in_both_frames_hold_for_their_own_images_alone(tmp_path: Path) -> None:
    shapes = [((30, 50), 6), ((30, 50), 8)]
    found = framed(written(tmp_path, shapes, displayed=[True, False]))
    assert [record.apply_exif for record in found.images] == [True, False]
    dataset = written(tmp_path, [*shapes, ((30, 50), 3)], displayed=[True, False, False])
    with pytest.raises(
        UnknownFrame, match="1 images declare their size as stored and 1 as displayed, and 1 tell"
    ):
        framed(dataset)


def test_boxes_as_displayed_on_sizes_as_stored(tmp_path: Path) -> None:
    """What a converter makes that asks Pillow for the size: no guess, and the right pixels when told."""
    dataset = written(tmp_path, [((30, 50), 6)], displayed=False, box=(2, 3, 20, 40))
    with pytest.raises(UnknownFrame, match="declare their size as stored, but 1 boxes fit only as displayed"):
        framed(dataset)
    found = framed(dataset, "displayed")
    (record,) = found.images
    assert (record.height, record.width) == (50, 30)
    assert np.array_equal(open_listed(record).pixels, np.rot90(pixels_of(30, 50), -1))
    (one,) = found.instances_of(record.id)
    assert one.mask().shape == (50, 30)
    assert one.mask().sum() == 20 * 40
    assert any("width and height exchanged" in note for note in found.notes)


def test_masks_of_another_frame_are_refused_with_the_image(tmp_path: Path) -> None:
    written(tmp_path, [((30, 50), 6)], displayed=False)
    document = json.loads((tmp_path / "a.json").read_text())
    document["annotations"][0]["segmentation"] = {"size": [30, 50], "counts": [0, 100, 1400]}
    (tmp_path / "a.json").write_text(json.dumps(document))
    with pytest.raises(AnnotationError, match=r"annotation id 1 on 0\.png.*ask for the other frame"):
        framed(read_instances(tmp_path / "a.json", tmp_path), "displayed")


def test_other_words_are_refused(tmp_path: Path) -> None:
    dataset = written(tmp_path, [((30, 50), 1)], displayed=False)
    with pytest.raises(UsageError, match="expected auto, stored, displayed"):
        framed(dataset, "upright")
    with pytest.raises(UsageError, match="there are none"):
        api.calibration_images(api.load_recipe("rtn-w8a8"), tmp_path, exif="stored")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tiff", "webp"])
def test_headers_say_what_the_images_are(tmp_path: Path, suffix: str) -> None:
    for orientation in (1, *TURNED):
        path = tmp_path / f"{orientation}.{suffix}"
        save(path, pixels_of(30, 50), orientation, displayed=False)
        header = read_header(path)
        assert header is not None
        assert header.orientation == orientation
        assert header.stored == open_image(path, apply_exif=False).pixels.shape[:2] == (30, 50)
        assert header.displayed == open_image(path).pixels.shape[:2]
    (tmp_path / "bad.png").write_bytes(b"no image")
    assert read_header(tmp_path / "bad.png") is None
    assert read_header(tmp_path / "absent.png") is None


def test_a_png_with_its_tag_behind_the_pixels(tmp_path: Path) -> None:
    save(tmp_path / "a.png", pixels_of(30, 50), 6, displayed=False)
    content = (tmp_path / "a.png").read_bytes()
    start = content.index(b"eXIf") - 4
    length = int.from_bytes(content[start : start + 4], "big") + 12
    chunk, rest = content[start : start + length], content[:start] + content[start + length :]
    end = rest.index(b"IEND") - 4
    (tmp_path / "b.png").write_bytes(rest[:end] + chunk + rest[end:])
    header = read_header(tmp_path / "b.png")
    assert header is not None
    assert header.displayed == open_image(tmp_path / "b.png").pixels.shape[:2] == (50, 30)


def dota(folder: Path, corners: str) -> Path:
    labels = folder / "labels"
    labels.mkdir()
    (labels / "0.txt").write_text(f"{corners} ship 0\n")
    (labels / "1.txt").write_text("")
    return labels


def test_label_files_tell_by_their_boxes(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    written(images, [((50, 30), 6), ((40, 40), 3)], displayed=True)
    found = read_oriented(dota(tmp_path, "2 30 20 30 20 48 2 48"), images)
    assert [(one.height, one.width, one.apply_exif) for one in found.listing.images] == [
        (50, 30, True),
        (40, 40, True),
    ]
    assert "1 boxes fit only so" in found.listing.notes[0]
    (tmp_path / "labels" / "0.txt").write_text("2 3 20 3 20 20 2 20 ship 0\n")
    with pytest.raises(UnknownFrame, match="nothing in the set tells"):
        read_oriented(tmp_path / "labels", images)
    stored = read_oriented(tmp_path / "labels", images, exif="stored", limit=1)
    assert [(one.height, one.width) for one in stored.listing.images] == [(30, 50)]


def test_label_maps_tell_by_their_sizes(tmp_path: Path) -> None:
    for name in ("images", "maps"):
        (tmp_path / name).mkdir()
    written(tmp_path / "images", [((50, 30), 6), ((40, 40), 3)], displayed=True)
    for place, shape in enumerate([(50, 30), (40, 40)]):
        Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / "maps" / f"{place}.png")
    found = read_semantic(tmp_path / "maps", tmp_path / "images")
    for image, shape in zip(found.images, [(50, 30), (40, 40)], strict=True):
        assert np.array_equal(open_semantic_image(image), pixels_of(*shape))
    (tmp_path / "images" / "0.png").unlink()
    with pytest.raises(UnknownFrame):
        read_semantic(tmp_path / "maps", tmp_path / "images")


def test_images_without_annotations_are_displayed_unless_asked(tmp_path: Path) -> None:
    written(tmp_path, [((50, 30), 6), ((30, 30), 1)], displayed=True)
    for exif, word, shape in (("auto", "displayed", (50, 30)), ("stored", "stored", (30, 50))):
        images, (note,) = in_frame(from_folder(tmp_path), exif)
        assert images[0].pixels().shape[:2] == shape
        assert f"count pixels as {word}" in note


@pytest.fixture
def turned_scenes(scene_directory: Path, tmp_path: Path) -> Path:
    """The generated scenes with tags that annotations do not follow; not all of them are square."""
    folder = tmp_path / "turned"
    folder.mkdir()
    for path in sorted((scene_directory / "images").iterdir()):
        save(folder / path.name, np.asarray(Image.open(path).convert("RGB")), 6, displayed=False)
    return folder


def test_figures_of_a_turned_set_are_those_of_the_set(
    float_sam: Sam, scene_directory: Path, turned_scenes: Path
) -> None:
    truth = scene_directory / "instances.json"
    plain = api.evaluate(float_sam, scene_directory / "images", truth)
    turned = api.evaluate(float_sam, turned_scenes, truth)
    assert turned.AP == plain.AP > 0.5
    assert "taken as stored" in turned.notes[0]
    assert plain.notes == ()


def test_commands_say_what_was_decided_and_refuse_to_guess(
    scene_directory: Path, turned_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads((scene_directory / "instances.json").read_text())
    squares = [one for one in document["images"] if one["width"] == one["height"]]
    kept = {one["id"] for one in squares}
    things = [one for one in document["annotations"] if one["image_id"] in kept]
    truth, boxes = tmp_path / "a.json", tmp_path / "boxes.json"
    truth.write_text(json.dumps({**document, "images": squares, "annotations": things}))
    rows = ({key: one[key] for key in ("image_id", "category_id", "bbox")} for one in things)
    boxes.write_text(json.dumps([{**row, "score": 0.5} for row in rows]))
    recipe = ["--recipe", "rtn", "--set", "calibration.images=1", "--out", tmp_path / "q.safetensors"]
    verbs: list[list[Any]] = [
        ["evaluate", "nano", "--images", turned_scenes, "--annotations", truth, "--limit", 1],
        ["segment", "nano", turned_scenes, "--detections", boxes, "--out", tmp_path / "m.json"],
        ["quantize", "nano", "--images", turned_scenes, "--annotations", truth, *recipe],
        ["compare", "nano", "nano", "--images", turned_scenes, "--annotations", truth, "--limit", 1],
    ]
    for words in verbs:
        assert run([str(word) for word in words]) == 3
        assert "pass --exif stored" in capsys.readouterr().err
        assert run([str(word) for word in (*words, "--exif", "stored", "--json")]) == 0
        captured = capsys.readouterr()
        found = json.loads(captured.out)
        (note,) = found["results"][0]["notes"] if "results" in found else found["notes"]
        assert "taken as stored, as asked" in note
        assert f"note: {note}" in captured.err
        assert run([str(word) for word in (*words, "--exif", "upright")]) == 2
        assert "--exif upright: expected auto, stored, displayed" in capsys.readouterr().err


def test_one_image_and_everything_are_displayed_unless_asked(
    scene_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = np.asarray(Image.open(scene_directory / "images" / "000001.png").convert("RGB"))[:96]
    save(tmp_path / "a.png", scene, 6, displayed=True)
    few = ["--points-per-side", 2, "--pred-iou-thresh", 0.1, "--out", tmp_path / "e.json", "--force"]
    mask = ["--box", "2,2,60,60", "--out", tmp_path / "m.png", "--force"]
    for exif, (height, width) in (("auto", (96, 128)), ("stored", (128, 96))):
        assert (
            run([str(word) for word in ("segment", "nano", tmp_path / "a.png", *mask, "--exif", exif)]) == 0
        )
        header = read_header(tmp_path / "m.png")
        assert header is not None
        assert header.stored == (height, width)
        capsys.readouterr()
        words = ("everything", "nano", tmp_path / "a.png", *few, "--exif", exif, "--json")
        assert run([str(word) for word in words]) == 0
        (note,) = json.loads(capsys.readouterr().out)["notes"]
        assert f"as {'displayed' if exif == 'auto' else 'stored'}" in note
        (image,) = json.loads((tmp_path / "e.json").read_text())["images"]
        assert (image["height"], image["width"]) == (height, width)


def test_a_run_is_not_continued_in_another_frame(float_sam: Sam, tmp_path: Path) -> None:
    from saqsam.jobs import identity as quantization
    from saqsam.many import work

    dataset = written(tmp_path, [((40, 40), 3)], displayed=True)
    recipe = api.load_recipe("rtn-w8a8")
    runs, folders = [], []
    for exif in ("stored", "displayed"):
        images = api.calibration_images(recipe, tmp_path, dataset.path, exif=exif)
        runs.append(quantization.identity_of(float_sam.model, recipe, images))
        (record,) = framed(dataset, exif).images
        items = [work.Item(ListedImage(record.id, record.path, record), None)]
        folders.append(work.identity_of("segment", float_sam, items))
    assert runs[0] != runs[1]
    assert folders[0] != folders[1]
