"""Twenty small scenes with detections, and one Ray for all tests of this folder."""

from __future__ import annotations

import gc
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.told import without_progress

from saqsam import api
from saqsam.cli.app import run
from saqsam.datasets.coco import read_instances
from saqsam.datasets.listing import from_annotations
from saqsam.many.tasks import SegmentJob
from saqsam.many.work import Item, identity_of
from saqsam.prompts.from_dataset import prompts_for
from saqsam.scenes import write_scenes


@dataclass(frozen=True)
class Folder:
    """Files of the scenes."""

    images: Path
    annotations: Path
    detections: Path

    def work(self) -> tuple[SegmentJob, list[Item], dict[str, Any]]:
        """What ``saqsam segment`` does with them: the job, its items, and their identity."""
        dataset = read_instances(self.annotations, self.images)
        prompts = prompts_for(dataset, self.detections)
        items = [Item(image, prompts.get(image.id)) for image in from_annotations(dataset)]
        load = partial(api.load, "nano")
        return SegmentJob(load), items, identity_of("segment", load(), items)


def make_folder(root: Path, count: int = 20, **settings: Any) -> Folder:
    """Scenes with the boxes of their objects as detections."""
    annotations = write_scenes(root / "scenes", count, 11, **settings)
    objects = json.loads(annotations.read_text())["annotations"]
    found = [
        {"image_id": one["image_id"], "category_id": one["category_id"], "bbox": one["bbox"], "score": 0.7}
        for one in objects
        if one["image_id"] != 3  # an image on which nothing is asked
    ]
    detections = root / "detections.json"
    detections.write_text(json.dumps(found))
    return Folder(annotations.parent / "images", annotations, detections)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Twenty scenes that no test changes."""
    return make_folder(tmp_path_factory.mktemp("many"))


@dataclass(frozen=True)
class Outcome:
    """What one command line gave."""

    code: int
    out: str
    err: str


Saqsam = Callable[..., Outcome]


@pytest.fixture
def saqsam(capsys: pytest.CaptureFixture[str]) -> Saqsam:
    """Runs one command line in this process."""

    def command(*words: str | Path) -> Outcome:
        capsys.readouterr()
        code = run([str(word) for word in words])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, without_progress(captured.err))

    return command


@pytest.fixture(scope="session")
def ray_running() -> Iterator[Any]:
    """One Ray for the session: it takes seconds to start. Nothing of it is left afterwards."""
    pytest.importorskip("ray")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        from saqsam.many.ray_workers import import_ray

        ray = import_ray()
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield ray
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Ray stops its processes without awaiting them
        ray.shutdown()
        gc.collect()
    assert not ray.is_initialized()
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
