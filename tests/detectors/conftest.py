"""Generated scenes to detect on, and small random detectors of transformers with their processors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.told import without_progress

from saqsam.cli.app import run
from saqsam.detectors.coco_names import COCO_CATEGORIES
from saqsam.scenes.write import write_scenes


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four scenes of 96 px and a COCO file of them with COCO's 80 categories in place of their own."""
    folder = tmp_path_factory.mktemp("scenes")
    path = write_scenes(folder, 4, seed=3, size=(96, 128))
    document = json.loads(path.read_text())
    document["categories"] = [{"id": key, "name": name} for key, name in COCO_CATEGORIES.items()]
    path.write_text(json.dumps(document))
    return folder


@pytest.fixture
def saqsam(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """``saqsam("detect", ...)``: exit code, stdout and stderr of one command line."""

    def call(*words: object) -> tuple[int, str, str]:
        code = run([str(word) for word in words])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, without_progress(captured.err)

    return call


def awake(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Random values in every tensor of a model, so that no path through it is dead and no two are alike."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            tensor.copy_(noise.abs() + 0.5)
        elif tensor.ndim > 1:
            tensor.copy_(noise * tensor[0].numel() ** -0.5)
        elif "norm" in name or "bn" in name:
            tensor.copy_(noise * 0.1 + (1.0 if name.endswith("weight") else 0.0))
        else:
            tensor.copy_(noise * 0.1)
    return model.eval()


def read_results(path: Path) -> list[dict[str, Any]]:
    """The entries of a COCO-results file, by the standard library alone."""
    entries = json.loads(path.read_text())
    assert isinstance(entries, list)
    return entries


def save_pretrained(model: torch.nn.Module, processor: Any, directory: Path) -> Path:
    """A directory as the hub holds it."""
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def detr_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random DETR on a tiny ResNet; its 91 classes bear no names, as when somebody trained it bare."""
    from transformers import DetrConfig, DetrForObjectDetection, DetrImageProcessor, ResNetConfig

    backbone = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 8, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage4"],
    )
    config = DetrConfig(
        backbone_config=backbone,
        use_timm_backbone=False,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_queries=12,
        num_labels=91,
    )
    model = awake(DetrForObjectDetection(config))
    processor = DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    return save_pretrained(model, processor, tmp_path_factory.mktemp("detr"))
