"""``hf:`` on small random models of four families, compared with the library's own post-processing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tests.detectors.conftest import awake, read_results, save_pretrained

from saqsam.datasets.coco import read_instances
from saqsam.detectors.coco_names import COCO_IDS, COCO_NAMES
from saqsam.detectors.pretrained import class_scores, load_pretrained
from saqsam.errors import CheckpointError, UsageError
from saqsam.images.files import open_image
from saqsam.prompts.detections import read_detections

Command = Callable[..., tuple[int, str, str]]

WIDTH = {"d_model": 32, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "decoder_attention_heads": 2}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "layer_type": "basic"}


def tiny_rt_detr_v2() -> tuple[Any, Any]:
    backbone = transformers.RTDetrResNetConfig(**RESNET, out_features=["stage2", "stage3", "stage4"])
    config = transformers.RTDetrV2Config(
        backbone_config=backbone,
        **WIDTH,
        encoder_hidden_dim=32,
        encoder_in_channels=[8, 16, 16],
        decoder_in_channels=[32, 32, 32],
        feat_strides=[8, 16, 32],
        encoder_attention_heads=2,
        num_queries=15,
        decoder_layers=2,
        num_labels=80,
    )
    processor = transformers.RTDetrImageProcessorPil(size={"height": 64, "width": 64})
    return transformers.RTDetrV2ForObjectDetection(config), processor


def tiny_d_fine() -> tuple[Any, Any]:
    backbone = transformers.HGNetV2Config(
        stem_channels=[3, 8, 8],
        stage_in_channels=[8, 8, 16, 16],
        stage_mid_channels=[8, 8, 8, 8],
        stage_out_channels=[8, 16, 16, 16],
        stage_num_blocks=[1, 1, 1, 1],
        stage_downsample=[False, True, True, True],
        stage_light_block=[False, False, True, True],
        stage_kernel_size=[3, 3, 3, 3],
        stage_numb_of_layers=[1, 1, 1, 1],
        embedding_size=8,
        hidden_sizes=[8, 16, 16, 16],
        depths=[1, 1, 1, 1],
        out_features=["stage2", "stage3", "stage4"],
    )
    config = transformers.DFineConfig(
        backbone_config=backbone,
        **WIDTH,
        encoder_hidden_dim=32,
        encoder_in_channels=[16, 16, 16],
        decoder_in_channels=[32, 32, 32],
        feat_strides=[8, 16, 32],
        encoder_attention_heads=2,
        num_queries=15,
        decoder_layers=2,
        num_labels=80,
    )
    return transformers.DFineForObjectDetection(config), transformers.RTDetrImageProcessorPil(
        size={"height": 64, "width": 64}
    )


def tiny_deformable_detr() -> tuple[Any, Any]:
    backbone = transformers.ResNetConfig(**RESNET, out_features=["stage2", "stage3", "stage4"])
    config = transformers.DeformableDetrConfig(
        backbone_config=backbone,
        use_timm_backbone=False,
        **WIDTH,
        encoder_attention_heads=2,
        encoder_layers=1,
        decoder_layers=2,
        num_queries=15,
        num_labels=91,
    )
    return transformers.DeformableDetrForObjectDetection(
        config
    ), transformers.DeformableDetrImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 96})


FAMILIES = {"rt_detr_v2": tiny_rt_detr_v2, "d_fine": tiny_d_fine, "deformable_detr": tiny_deformable_detr}


@pytest.fixture(scope="module", params=[*FAMILIES, "detr"])
def directory(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, detr_directory: Path
) -> Path:
    if request.param == "detr":
        return detr_directory
    model, processor = FAMILIES[request.param]()
    return save_pretrained(awake(model), processor, tmp_path_factory.mktemp(request.param))


def test_a_file_that_prompts_a_sam(saqsam: Command, scenes: Path, directory: Path, tmp_path: Path) -> None:
    out = tmp_path / "d.json"
    words = ("--annotations", scenes / "instances.json", "--top-k", 7, "--json")
    code, text, err = saqsam(
        "detect", scenes / "images", "--detector", f"hf:{directory}", "--out", out, *words
    )
    assert (code, err) == (0, "")
    report = json.loads(text)
    entries = read_results(out)
    assert 0 < len(entries) == report["boxes"] <= 4 * 7
    assert report["images"] == 4
    dataset = read_instances(scenes / "instances.json", scenes / "images")
    found = read_detections(out, dataset)
    assert sum(map(len, found.values())) == len(entries)
    assert {one["category_id"] for one in entries} <= set(COCO_IDS)
    again, images = tmp_path / "again.json", tmp_path / "image_info.json"
    document = json.loads((scenes / "instances.json").read_text())
    del document["annotations"]  # as in COCO's files of its test sets
    images.write_text(json.dumps(document))
    words = ("--annotations", images, *words[2:])
    saqsam("detect", scenes / "images", "--detector", f"hf:{directory}", "--out", again, *words)
    assert again.read_bytes() == out.read_bytes()


def test_the_same_boxes_as_the_librarys_own_post_processing(scenes: Path, directory: Path) -> None:
    detector = load_pretrained(f"hf:{directory}")
    pixels = open_image(scenes / "images" / "000002.png").pixels
    found = detector.detect(pixels)
    inputs = detector.processor(images=[pixels], return_tensors="pt")
    with torch.no_grad():
        output = detector.model(**inputs)
    wanted = detector.processor.post_process_object_detection(
        output, threshold=0.0, target_sizes=torch.tensor([pixels.shape[:2]])
    )[0]
    compared = 0
    for score, label, box in zip(wanted["scores"], wanted["labels"], wanted["boxes"], strict=True):
        if score < found.scores[-1]:
            continue
        same = (found.labels == label) & ((found.scores - score).abs() < 1e-6)
        assert bool(((found.boxes[same] - box).abs().amax(1) < 1e-3).any())
        compared += 1
    assert compared >= 5


def test_no_object_is_the_last_of_one_logit_more() -> None:
    logits = torch.tensor([[2.0, 1.0, 5.0]])
    assert torch.allclose(class_scores(logits, 2), logits.softmax(-1)[:, :2])
    assert torch.equal(class_scores(logits, 3), logits.sigmoid())


def test_nameless_classes_are_read_as_cocos(directory: Path) -> None:
    names = load_pretrained(f"hf:{directory}").class_names
    if len(names) == 80:
        assert names == COCO_NAMES
    else:
        assert [names[key] for key in COCO_IDS] == list(COCO_NAMES)
        assert names[0] == names[12] == "N/A"


@pytest.fixture
def copy(detr_directory: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(detr_directory, tmp_path / "copy"))


def change_config(directory: Path, **entries: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def test_real_names_are_matched_with_the_data_set(
    saqsam: Command, scenes: Path, copy: Path, tmp_path: Path
) -> None:
    names = {str(label): f"thing {label}" for label in range(91)}
    change_config(copy, id2label={**names, "5": "aeroplane"}, label2id={})
    words = ("--annotations", scenes / "instances.json", "--out", tmp_path / "d.json")
    code, text, _ = saqsam("detect", scenes / "images", "--detector", f"hf:{copy}", *words)
    assert code == 0
    assert "were of classes that the data set does not have" in text
    assert {one["category_id"] for one in read_results(tmp_path / "d.json")} <= {5}
    change_config(copy, id2label=names)
    code, _, err = saqsam("detect", scenes / "images", "--detector", f"hf:{copy}", *words, "--force")
    assert code == 2
    assert "none of its categories (person, bicycle, car, ...)" in err


def test_a_model_that_needs_timm_says_so(copy: Path) -> None:
    backbone = {"model_type": "timm_backbone", "backbone": "resnet50"}
    change_config(copy, backbone_config=backbone)
    with pytest.raises(UsageError, match=r"needs the package timm.*pip install timm"):
        load_pretrained(f"hf:{copy}")


def test_a_model_that_needs_torchvision_says_so(copy: Path) -> None:
    path = copy / "preprocessor_config.json"
    path.write_text(json.dumps({"image_processor_type": "RfDetrImageProcessor"}))
    with pytest.raises(UsageError, match=r"needs the package torchvision"):
        load_pretrained(f"hf:{copy}")


def test_directories_that_are_not_whole_detectors(copy: Path, tmp_path: Path) -> None:
    def message(directory: Path) -> str:
        with pytest.raises(CheckpointError) as caught:
            load_pretrained(f"hf:{directory}")
        assert caught.value.hint
        return str(caught.value)

    change_config(copy, auto_map={"AutoModelForObjectDetection": "evil.Model"})
    assert "asks to run Python code" in message(copy)
    change_config(copy, auto_map=None)
    config = json.loads((copy / "config.json").read_text())
    del config["auto_map"]
    (copy / "config.json").write_text(json.dumps({**config, "decoder_layers": 2}))
    assert "tensors of the model are missing" in message(copy)
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "sam"}))
    assert "no detector could be opened" in message(copy)
    (copy / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    (copy / "config.json").write_text(json.dumps(config))
    assert "no detector could be opened" in message(copy)
    (copy / "preprocessor_config.json").unlink()
    assert "no preprocessor_config.json" in message(copy)
    (copy / "config.json").write_text("[")
    assert "no preprocessor_config.json" in message(copy)
