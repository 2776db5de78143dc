"""What has to be on disk before a row can be repeated, where it comes from, and whether it is that."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from saqsam.checkpoints.official_files import OFFICIAL_FILES
from saqsam.reproduce.rows import FLOAT, TRUTH, PaperRow

_SAM = "https://dl.fbaipublicfiles.com/segment_anything/"
_MMDET = "https://download.openmmlab.com/mmdetection/v2.0/"
_HDETR = "https://github.com/HDETR/H-Deformable-DETR/releases/download/v0.1/"
_FOCAL = "https://projects4jw.blob.core.windows.net/focalnet/release/detection/"
_COCO = "http://images.cocodataset.org/"
_TAIL = "dp0_mqs_lft_deformable_detr_plus_iterative_bbox_refinement_plus_plus_two_stage_36eps.pth"


@dataclass(frozen=True)
class Published:
    """A published weight file.

    Attributes:
        name: of the file.
        url: where it is published.
        sha256: all or the first digits of its hash, "" where not known. mmdet ends its file names with the
            first eight digits.
    """

    name: str
    url: str
    sha256: str = ""


SAM_FILES: Mapping[str, Published] = {
    size: Published(file.name, _SAM + file.name, file.sha256)
    for size, file in zip("blh", OFFICIAL_FILES, strict=True)
}


def _published(base: str, name: str, sha256: str = "") -> Published:
    return Published(name.rpartition("/")[2], base + name, sha256)


DETECTOR_FILES: Mapping[str, Published] = {
    "yolox-l": _published(
        _MMDET, "yolox/yolox_l_8x8_300e_coco/yolox_l_8x8_300e_coco_20211126_140236-d3bd2b23.pth", "d3bd2b23"
    ),
    "faster-rcnn-r50": _published(
        _MMDET,
        "faster_rcnn/faster_rcnn_r50_fpn_2x_coco/"
        "faster_rcnn_r50_fpn_2x_coco_bbox_mAP-0.384_20200504_210434-a5d8aa15.pth",
        "a5d8aa15",
    ),
    "h-detr-r50": _published(_HDETR, f"r50_hybrid_branch_lambda1_group6_t1500_{_TAIL}"),
    "h-detr-swin-t": _published(_HDETR, f"swin_tiny_hybrid_branch_lambda1_group6_t1500_{_TAIL}"),
    "h-detr-swin-l": _published(
        _HDETR, f"decay0.05_drop_path0.5_swin_large_hybrid_branch_lambda1_group6_t1500_n900_{_TAIL}"
    ),
    "dino-focal-l": _published(_FOCAL, "focalnet_large_fl4_o365_finetuned_on_coco.pth"),
}


@dataclass(frozen=True)
class Places:
    """Where things are, and where results go.

    Attributes:
        coco: holds ``train2017``, ``val2017`` and ``annotations/instances_val2017.json``.
        weights: holds the published files under their own names.
        sam: a float model to use instead of the published one, as ``saqsam.load`` takes it.
        detector: a weight file to use instead of the published one.
    """

    coco: Path
    weights: Path
    sam: str | None = None
    detector: Path | None = None

    @property
    def train_images(self) -> Path:
        return self.coco / "train2017"

    @property
    def train_annotations(self) -> Path:
        return self.coco / "annotations" / "instances_train2017.json"

    @property
    def val_images(self) -> Path:
        return self.coco / "val2017"

    @property
    def val_annotations(self) -> Path:
        return self.coco / "annotations" / "instances_val2017.json"

    def sam_source(self, row: PaperRow) -> str:
        """What to load as the float model."""
        return self.sam or str(self.weights / SAM_FILES[row.size].name)

    def detector_file(self, row: PaperRow) -> Path:
        """The detector's weights."""
        return self.detector or self.weights / DETECTOR_FILES[row.detector].name


@dataclass(frozen=True)
class Finding:
    """One thing that a row needs.

    Attributes:
        path: where it should be.
        source: where it comes from.
        present: whether it is there.
        size: in bytes; of a folder, the number of images; None where absent.
        verdict: ``missing``, ``sha256 agrees``, ``sha256 differs``, ``sha256 not known``, ``chosen by you``
            or ``images, not compared``.
    """

    path: str
    source: str
    present: bool
    size: int | None
    verdict: str

    @property
    def is_good(self) -> bool:
        """Whether a run may rely on it."""
        return self.present and self.verdict != "sha256 differs"


def check_files(row: PaperRow, places: Places) -> list[Finding]:
    """Look at everything a row needs; hashes are computed where one is known, some seconds for each file."""
    found = []
    if places.sam is None:
        found.append(_check_weights(places.weights, SAM_FILES[row.size]))
    else:
        found.append(Finding(places.sam, "", True, None, "chosen by you"))
    true_boxes = row.detector == TRUTH
    if true_boxes:
        pass
    elif places.detector is None:
        found.append(_check_weights(places.weights, DETECTOR_FILES[row.detector]))
    else:
        found.append(_check_plain(places.detector, ""))
    found.append(_check_plain(places.val_annotations, _COCO + "annotations/annotations_trainval2017.zip"))
    found.append(_check_folder(places.val_images, _COCO + "zips/val2017.zip"))
    if row.method != FLOAT:
        found.append(_check_folder(places.train_images, _COCO + "zips/train2017.zip"))
    if row.method != FLOAT and true_boxes:
        found.append(
            _check_plain(places.train_annotations, _COCO + "annotations/annotations_trainval2017.zip")
        )
    return found


def _check_weights(folder: Path, file: Published) -> Finding:
    path = folder / file.name
    if not path.is_file():
        return Finding(str(path), file.url, False, None, "missing")
    size = path.stat().st_size
    if not file.sha256:
        return Finding(str(path), file.url, True, size, "sha256 not known")
    with path.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    verdict = "sha256 agrees" if digest.startswith(file.sha256) else "sha256 differs"
    return Finding(str(path), file.url, True, size, verdict)


def _check_plain(path: Path, source: str) -> Finding:
    if not path.is_file():
        return Finding(str(path), source, False, None, "missing")
    return Finding(
        str(path), source, True, path.stat().st_size, "sha256 not known" if source else "chosen by you"
    )


def _check_folder(path: Path, source: str) -> Finding:
    count = sum(1 for one in path.iterdir() if one.suffix == ".jpg") if path.is_dir() else 0
    if count == 0:
        return Finding(str(path), source, False, None, "missing")
    return Finding(str(path), source, True, count, "images, not compared")
