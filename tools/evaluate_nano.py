"""Figures of the model card: mIoU from a box and from one click on scenes never trained on, and on COCO.

    python tools/evaluate_nano.py [--model nano-sam2] [--scenes 200] [--seed 7] [--coco DIR]

A click is the pixel of the object farthest from its edge.  Masks are the model's single mask
(``multimask_output=False``), cut at 0.  The baseline is the ellipse inscribed in the box.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from faster_coco_eval.core import mask as rle
from PIL import Image
from scipy.ndimage import distance_transform_edt

from saqsam.families.embedding import Embedding
from saqsam.families.registry import sizes_of
from saqsam.images.frame import Frame
from saqsam.prompts.prompts import Prompts
from saqsam.scenes import CATEGORIES, make_scene
from saqsam.scenes.write import MIXED_SIZES
from saqsam.segment.predictor import decode, decoded, embed, preprocess, upscale_masks
from saqsam.shipped.embedded import EMBEDDED_NAMES, embedded_sam

Objects = tuple[np.ndarray, list[np.ndarray], list[str]]


def scenes(count: int, seed: int) -> Iterator[Objects]:
    """Pixels, masks and category names of generated scenes; scene ``i`` is that of ``write_scenes``."""
    for index in range(count):
        scene = make_scene(np.random.default_rng([seed, index]), MIXED_SIZES[index % len(MIXED_SIZES)])
        names = [CATEGORIES[i - 1] for i in scene.category_ids]
        yield scene.image, [scene.mask(i) for i in range(len(scene))], names


def every_image(record: dict[str, object]) -> bool:
    return True


def coco(directory: Path, wanted: Callable[[dict[str, object]], bool] = every_image) -> Iterator[Objects]:
    """The same of a COCO-format set, without crowds.

    Args:
        directory: has ``images/`` and ``annotations/instances.json`` or ``instances.json``.
        wanted: which entries of ``images`` to take.
    """
    file = directory / "annotations" / "instances.json"
    document = json.loads((file if file.exists() else directory / "instances.json").read_text())
    names = {c["id"]: c["name"] for c in document["categories"]}
    for record in filter(wanted, document["images"]):
        own = [a for a in document["annotations"] if a["image_id"] == record["id"] and not a["iscrowd"]]
        size = (record["height"], record["width"])
        masks = [rasterised(a["segmentation"], size) for a in own]
        image = np.asarray(Image.open(directory / "images" / record["file_name"]).convert("RGB"))
        kept = [(m, names[a["category_id"]]) for m, a in zip(masks, own, strict=True) if m.any()]
        yield image, [m for m, _ in kept], [name for _, name in kept]


def rasterised(segmentation: object, size: tuple[int, int]) -> np.ndarray:
    if isinstance(segmentation, list):
        segmentation = rle.merge(rle.frPyObjects(segmentation, *size))
    elif isinstance(segmentation["counts"], list):
        segmentation = rle.frPyObjects(segmentation, *size)
    return rle.decode(segmentation).astype(bool)


def tight_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def centre_click(mask: np.ndarray) -> tuple[int, int]:
    distance = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    return int(x), int(y)


def inscribed_ellipse(box: tuple[int, int, int, int], shape: tuple[int, int]) -> np.ndarray:
    x0, y0, x1, y1 = box
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    across, down = (x - (x0 + x1) / 2) / ((x1 - x0) / 2), (y - (y0 + y1) / 2) / ((y1 - y0) / 2)
    return across**2 + down**2 <= 1


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    return float((mask & truth).sum() / max((mask | truth).sum(), 1))


def object_scores(
    model: torch.nn.Module, embedding: Embedding, masks: list[np.ndarray], frame: Frame
) -> dict[str, list[float]]:
    """Of SAM 2: how sure it is of an object, clicking on one and on none; and the mask it chooses itself."""
    nothing = ~np.any(masks, axis=0)
    places = [centre_click(mask) for mask in masks] + ([centre_click(nothing)] if nothing.any() else [])
    clicks = torch.tensor(places, dtype=torch.float32)[:, None]
    labels = torch.ones(len(places), 1, dtype=torch.int64)
    found = decoded(model, embedding, Prompts(None, clicks, labels, None), frame, may_switch=True)
    sure = torch.sigmoid(found.objects).tolist()
    shown = upscale_masks(found.masks, frame)[:, 0].numpy()
    return {
        "object score, object": sure[: len(masks)],
        "object score, background": sure[len(masks) :],
        "object score right": [float((s > 0.5) == (i < len(masks))) for i, s in enumerate(sure)],
        "click, may switch": [iou(a, b) for a, b in zip(shown, masks, strict=False)],
    }


def measure(model: torch.nn.Module, objects: Iterator[Objects]) -> dict[str, object]:
    """Mean IoU over all objects, per category, of the baseline, and the error of the predicted IoU."""
    table: dict[str, list[float]] = defaultdict(list)
    for pixels, masks, names in objects:
        if not masks:
            continue
        boxes = [tight_box(mask) for mask in masks]
        clicks = torch.tensor([[centre_click(mask)] for mask in masks], dtype=torch.float32)
        values, frame = preprocess(model, pixels)
        embedding = embed(model, values)
        prompts = {
            "box": Prompts(torch.tensor(boxes, dtype=torch.float32), None, None, None),
            "click": Prompts(None, clicks, torch.ones(len(masks), 1, dtype=torch.int64), None),
        }
        if sizes_of(model).object_scores:
            for key, values_of in object_scores(model, embedding, masks, frame).items():
                table[key] += values_of
        for kind, given in prompts.items():
            logits, scores = decode(model, embedding, given, frame)
            found = upscale_masks(logits, frame)[:, 0].numpy()
            for mask, truth, name, score in zip(found, masks, names, scores[:, 0].tolist(), strict=True):
                value = iou(mask, truth)
                table[kind].append(value)
                table[f"{kind}/{name}"].append(value)
                table[f"{kind} predicted-IoU error"].append(abs(score - value))
        table["ellipse"] += [iou(inscribed_ellipse(b, m.shape), m) for b, m in zip(boxes, masks, strict=True)]
    means: dict[str, object] = {key: round(float(np.mean(values)), 4) for key, values in table.items()}
    return {"objects": len(table["ellipse"]), **means}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=EMBEDDED_NAMES, default="nano")
    parser.add_argument("--checkpoint", type=Path, help="a training checkpoint, instead of the shipped model")
    parser.add_argument("--scenes", type=int, default=400)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--coco", type=Path, help="directory with images/ and annotations/instances.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = embedded_sam(options.model)
    if options.checkpoint:
        saved = torch.load(options.checkpoint, weights_only=True)
        model.load_state_dict({k: v.half().float() for k, v in saved["average"].items()})
    found = measure(model, scenes(options.scenes, options.seed))
    for key in sorted(found):
        print(f"scenes  {key:28s} {found[key]}")
    if options.coco:
        found = measure(model, coco(options.coco))
        for key in ("objects", "box", "click", "ellipse"):
            print(f"coco    {key:28s} {found[key]}")


if __name__ == "__main__":
    main()
