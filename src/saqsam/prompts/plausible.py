"""Boxes that are read without a fault and cannot be meant so: said in a note, since figures look like any.

Ids shifted by one, corners where width and height belong, shares of the image where pixels belong: each gives
some average precision, and none an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from saqsam.datasets.exif import table
from saqsam.datasets.fields import is_id, is_object, shown
from saqsam.datasets.instances import Instance, InstanceSet
from saqsam.datasets.masks import mask_box
from saqsam.datasets.strict_json import read_json
from saqsam.errors import AnnotationError
from saqsam.prompts.from_dataset import BOXES, POINTS, ImagePrompts
from saqsam.prompts.readings import MEETS, MOST_OBJECTS, ImageBoxes, better_reading, sample

_FEW = 0.1
"""Below this share of agreement, something is wrong rather than weak."""
_MENDED = 0.6
"""From this share of agreement, a change of ids counts as the remedy."""


def implausible(
    dataset: InstanceSet, prompts: Mapping[int, ImagePrompts], source: str | Path
) -> tuple[str, ...]:
    """What looks wrong about the prompts of a set, one sentence each.

    Args:
        dataset: images and objects; without objects fewer things can be told.
        prompts: by image id, from ``prompts_for``.
        source: ``"boxes"``, ``"points"`` or the detections file they came from.
    """
    box_of = _outline_box if source == BOXES else _any_box
    objects: dict[int, list[tuple[Sequence[float], int]]] = {}
    count = 0
    for image in dataset.images:
        if image.id in prompts and count < MOST_OBJECTS:  # more are not looked at
            things = [one for one in dataset.instances_of(image.id) if not one.iscrowd]
            if source == BOXES:  # held against its own outline, where that was read
                things = [one for one in things if one.outline is not None]
            objects[image.id] = [(box_of(one), one.category_id) for one in things]
            count += len(things)
    return implausible_boxes(dataset, prompts, source, objects, counted=source == BOXES)


def implausible_boxes(
    dataset: InstanceSet,
    prompts: Mapping[int, ImagePrompts],
    source: str | Path,
    objects: Mapping[int, Sequence[tuple[Sequence[float], int]]],
    *,
    counted: bool = False,
) -> tuple[str, ...]:
    """The same, with the objects given apart: XYXY box and category id of each, by image id.

    ``counted`` says that boxes past their image were counted when the set was read.
    """
    if source == POINTS:
        return ()
    if not prompts:
        return (_nothing(dataset, source),)
    images = []
    for image in dataset.images:
        asked, here = prompts.get(image.id), objects.get(image.id, ())
        if asked is not None and asked.given is not None:
            images.append(
                ImageBoxes(
                    (image.width, image.height),
                    asked.given,
                    np.array(asked.category_ids, dtype=np.int64),
                    table(box for box, _ in here),
                    np.array([category for _, category in here], dtype=np.int64),
                )
            )
    misread = list(_read_otherwise(images))
    notes = [*_placed(images, counted), *misread]
    if source != BOXES:
        # What is misread meets no object: its categories tell nothing.
        notes += () if misread else _categories(images, dataset.categories)
        notes += _scored(prompts)
        notes += _named(dataset, source)
        if len(prompts) < len(dataset.images) / 2:
            notes.append(f"only {len(prompts)} of {len(dataset.images)} images have detections")
    return tuple(notes)


def _nothing(dataset: InstanceSet, source: str | Path) -> str:
    if source == BOXES:
        return f"no image has an annotated object to ask for: is {dataset.path.name} complete?"
    return (
        f"{Path(source).name} holds no detection on these images, or none is left by --score-threshold: "
        "nothing was asked"
    )


def _placed(images: Sequence[ImageBoxes], counted: bool) -> Iterator[str]:
    """How many boxes reach past their image, if that is not known, and how many are smaller than a pixel."""
    if not images:
        return
    given = np.concatenate([image.given for image in images])
    limits = np.concatenate([np.tile(image.size, (len(image.given), 1)) for image in images])
    past = (np.minimum(given[:, :2], 0) < -1).any(1) | (given[:, 2:] > limits + 1).any(1)
    if past.any() and not counted:
        yield f"{_share(past)} boxes reach more than a pixel past their image and are clipped to it"
    small = (given[:, 2:] - given[:, :2] < 1).any(1)
    if small.any():
        yield f"{_share(small)} boxes are less than a pixel wide or high"


def _read_otherwise(images: Sequence[ImageBoxes]) -> Iterator[str]:
    """Whether the boxes make sense in another order or unit."""
    found = better_reading(images)
    if found is not None:
        name, theirs, usual = found
        yield (
            f"read as {name}, boxes meet {_percent(theirs)} of the annotated objects, as x, y, width, height "
            f"in pixels {_percent(usual)}: write them as x, y, width, height in pixels"
        )
        return
    given = np.concatenate([table(()), *(image.given for image in images)])
    limits = np.concatenate([table(())[:, :2], *(np.tile(one.size, (len(one.given), 1)) for one in images)])
    raw = given[:, 2:] - given[:, :2]
    if not len(given):
        return
    if max(np.abs(given[:, :2]).max(), raw.max()) <= 1.001 and limits.max() > 4:
        yield "all numbers of all boxes lie in 0..1: they look like shares of the image, pixels are expected"
    leaves = np.any(given[:, 2:] > limits + 1, axis=1)
    corners = (raw > given[:, :2]).all(1) & (raw <= limits + 1).all(1)
    if leaves.mean() >= 0.25 and corners.all():
        yield (
            f"{_share(leaves)} boxes leave their image as x, y, width, height, and all fit as x0, y0, x1, y1"
            ": write them as x, y, width, height"
        )


def _categories(images: Sequence[ImageBoxes], names: Mapping[int, str]) -> Iterator[str]:
    """Whether detections have the categories of the objects that they lie on."""
    chosen = sample(images)
    pairs = np.concatenate([np.zeros((0, 2), np.int64), *(_pairs(image) for image in chosen)])
    if not chosen:
        return
    objects = sum(len(image.objects) for image in chosen)
    given = sum(len(image.given) for image in chosen)
    if len(pairs) < _FEW * min(objects, given):  # so few may lie on an object by chance
        ours = set(np.concatenate([image.categories for image in chosen]).tolist())
        theirs = set(np.concatenate([image.object_categories for image in chosen]).tolist())
        if names and not ours & theirs:
            yield "detections and annotated objects have no category in common"
        if given >= objects:
            meets = f"only {len(pairs)} of {given} detections meet" if len(pairs) else "no detection meets"
            yield (
                f"{meets} any of {objects} annotated objects (IoU {MEETS}): were they made on "
                "these images, in the same order, size and --exif frame?"
            )
        return
    if not names:  # a set that was read without its categories
        return
    agreeing = float((pairs[:, 0] == pairs[:, 1]).mean())
    if agreeing > (_FEW if len(pairs) >= 20 else 0):
        return
    kept = "none" if agreeing == 0 else f"only {_percent(agreeing)}"
    said = f"{kept} of {len(pairs)} detections on annotated objects have the category of their object"
    yield f"{said}: {_remedy(pairs, sorted(names)) or 'were they made for other categories?'}"


def _pairs(image: ImageBoxes) -> npt.NDArray[np.int64]:
    """``(K, 2)`` category of each detection that meets an object, and of that object."""
    overlaps = image.overlaps(image.given)
    met = overlaps.max(1) >= MEETS
    return np.stack([image.categories[met], image.object_categories[overlaps[met].argmax(1)]], 1)


def _remedy(pairs: npt.NDArray[np.int64], ids: Sequence[int]) -> str | None:
    """The change of ids that makes most detections agree with their objects."""
    ours, theirs = pairs[:, 0].tolist(), pairs[:, 1].tolist()
    offset, count = Counter(b - a for a, b in zip(ours, theirs, strict=True)).most_common(1)[0]
    remedies = {offset_words(offset): count / len(pairs)}
    for first in (0, 1):
        place = {number + first: key for number, key in enumerate(ids)}
        words = f"category_id taken as a place in the list of categories, counted from {first}, makes"
        remedies[words] = float(np.mean([place.get(a) == b for a, b in zip(ours, theirs, strict=True)]))
    words, share = max(remedies.items(), key=lambda one: one[1])
    return f"{words} {_percent(share)} agree" if share >= _MENDED else None


def offset_words(offset: int) -> str:
    """An offset of ids as the beginning of a sentence."""
    return f"{abs(offset)} {'added to' if offset > 0 else 'taken from'} every category_id makes"


def _scored(prompts: Mapping[int, ImagePrompts]) -> Iterator[str]:
    """Whether scores put the better of two masks last: they are multiplied by its predicted IoU."""
    scores = np.concatenate([np.asarray(one.scores, dtype=np.float64) for one in prompts.values()])
    low = scores <= 0
    if low.any():
        yield (
            f"{_share(low)} scores are 0 or less: multiplied by predicted IoU they sort masks wrongly; write "
            "probabilities in place of logits"
        )


def _named(dataset: InstanceSet, source: str | Path) -> Iterator[str]:
    """Whether a file of detections that names its categories names them otherwise."""
    path = Path(source)
    if not path.is_file():
        return
    with path.open("rb") as file:
        if not file.read(64).lstrip().startswith(b"{"):
            return
    try:
        listed = read_json(path).get("categories")
    except AnnotationError:
        return
    entries = [entry for entry in listed if is_object(entry)] if isinstance(listed, list) else []
    theirs = {entry["id"]: entry.get("name") for entry in entries if is_id(entry.get("id"))}
    other = {key: name for key, name in theirs.items() if dataset.categories.get(key, name) != name}
    if other:
        key, name = next(iter(other.items()))
        mended = "; the names are the same, so map ids by name" if _same_names(dataset, theirs) else ""
        yield (
            f"{len(other)} categories have other names in {path.name} than in {dataset.path.name}, such as "
            f"{key}, {shown(name)} and {shown(dataset.categories[key])}{mended}"
        )


def _same_names(dataset: InstanceSet, theirs: Mapping[Any, Any]) -> bool:
    return set(theirs.values()) <= set(dataset.categories.values())


def _outline_box(one: Instance) -> tuple[float, float, float, float]:
    """XYXY around the outline, which says where the object is whatever its bbox says."""
    if isinstance(one.outline, list):
        corners = np.concatenate([np.array(part, dtype=np.float64).reshape(-1, 2) for part in one.outline])
        (x0, y0), (x1, y1) = corners.min(0).tolist(), corners.max(0).tolist()
        return x0, y0, x1, y1
    return mask_box(one.segmentation)


def _any_box(one: Instance) -> tuple[float, float, float, float]:
    return one.stated_box or _outline_box(one)


def _share(which: npt.NDArray[np.bool_]) -> str:
    return f"{int(which.sum())} of {len(which)} ({_percent(float(which.mean()))})"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
