"""A quantized embedded model and the embedding of one scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from transformers import SamModel

from saqsam import api
from saqsam.families.embedding import Embedding
from saqsam.families.framing import preprocess
from saqsam.images.frame import Frame
from saqsam.sam import Sam
from saqsam.scenes import make_scene, write_scenes
from saqsam.segment.predictor import embed


@dataclass(frozen=True)
class Encoded:
    """A model with one image that it has encoded."""

    model: SamModel
    embeddings: Embedding
    frame: Frame


def encode(model: SamModel) -> Encoded:
    """The same scene for every model."""
    scene = make_scene(np.random.default_rng(5), (96, 128))
    pixel_values, frame = preprocess(model, scene.image)
    return Encoded(model, embed(model, pixel_values), frame)


@pytest.fixture(scope="session")
def quantized_nano(float_sam: Sam, tmp_path_factory: pytest.TempPathFactory) -> Sam:
    """The embedded model at 4 bits."""
    scenes = tmp_path_factory.mktemp("scenes")
    annotations = write_scenes(scenes, 2, 11)
    return api.quantize(float_sam, "rtn-w4a4", scenes / "images", annotations)


@pytest.fixture(scope="session")
def encoded(float_sam: Sam) -> Encoded:
    """A scene encoded by the float model."""
    return encode(float_sam.model)


@pytest.fixture(scope="session")
def quantized_encoded(quantized_nano: Sam) -> Encoded:
    """The scene encoded by the quantized model."""
    return encode(quantized_nano.model)
