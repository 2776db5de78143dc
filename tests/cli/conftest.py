"""A packed file of the shipped model and a few generated scenes, used through the command line in process."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.told import without_progress

from saqsam.cli.app import run
from saqsam.scenes import write_scenes


@dataclass(frozen=True)
class Outcome:
    """What one command line gave; ``err`` without lines of progress, which slow machines have more of."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        """The one JSON object on stdout; anything before or after it is an error."""
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


Saqsam = Callable[..., Outcome]


@pytest.fixture
def saqsam(capsys: pytest.CaptureFixture[str]) -> Saqsam:
    """Runs one command line: ``saqsam("inspect", "nano")``."""

    def command(*words: str | Path) -> Outcome:
        capsys.readouterr()
        code = run([str(word) for word in words])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, without_progress(captured.err))

    return command


@dataclass(frozen=True)
class Ground:
    """Files that all tests share and none changes.

    Attributes:
        images: folder of three scenes, ``000001.png`` ...
        annotations: their COCO instances file.
        detections: COCO results: every object's box, scores falling from 0.9.
        packed: nano in 4 bits.
    """

    images: Path
    annotations: Path
    detections: Path
    packed: Path

    def quantize(self, model: str | Path, out: Path) -> list[str]:
        """A valid ``saqsam quantize`` by the quickest recipe."""
        words = ["quantize", model, "--images", self.images, "--annotations", self.annotations]
        return [str(word) for word in (*words, "--recipe", "rtn-w4a4", "--out", out)]


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """Generated once for the whole session."""
    root = tmp_path_factory.mktemp("ground")
    annotations = write_scenes(root / "scenes", 3, 11)
    objects = json.loads(annotations.read_text())["annotations"]
    detections = root / "detections.json"
    detections.write_text(
        json.dumps(
            [
                {
                    "image_id": one["image_id"],
                    "category_id": one["category_id"],
                    "bbox": one["bbox"],
                    "score": 0.9 - 0.01 * rank,
                }
                for rank, one in enumerate(objects)
            ]
        )
    )
    ground = Ground(root / "scenes" / "images", annotations, detections, root / "packed.safetensors")
    assert run(ground.quantize("nano", ground.packed)) == 0
    return ground


@pytest.fixture
def folder(ground: Ground, tmp_path: Path) -> Path:
    """A copy of the images that a test may spoil."""
    return Path(shutil.copytree(ground.images, tmp_path / "images"))


@pytest.fixture(scope="session")
def command() -> str:
    """The ``saqsam`` command installed beside the Python that runs the tests."""
    found = shutil.which("saqsam", path=str(Path(sys.executable).parent))
    assert found, "the saqsam command is not installed in this environment"
    return found
