"""Directories that transformers loads: equal masks, equal files, loud refusals."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.launcher import Launcher, launcher
from transformers import SamModel, SamProcessor, pipeline

import saqsam
from saqsam.cli.app import run
from saqsam.errors import CheckpointError, CorruptCheckpoint, UsageError
from saqsam.sam import Sam

WEIGHTS = "saqsam.safetensors"


@pytest.fixture
def broken(saved: Path, tmp_path: Path) -> Path:
    """A copy to be tampered with."""
    return shutil.copytree(saved, tmp_path / "broken")


def outputs(model: SamModel) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randn((1, 3, 128, 128), generator=generator).to(model.dtype)
    boxes = torch.tensor([[[10.0, 12.0, 90.0, 100.0], [40.0, 3.0, 120.0, 60.0]]], dtype=model.dtype)
    with torch.no_grad():
        found = model(pixel_values=pixels, input_boxes=boxes, multimask_output=True)
    return found.pred_masks, found.iou_scores


def in_a_fresh_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, timeout=300
    )


def test_masks_are_those_of_the_packed_file_to_the_last_bit(packed: Path, saved: Path) -> None:
    expected = outputs(saqsam.load(packed).model)
    for model in (
        SamModel.from_pretrained(saved),
        saqsam.load(saved).model,
    ):
        for one, other in zip(outputs(model), expected, strict=True):
            assert torch.equal(one, other)
        assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}])
def test_a_device_map_gives_the_same_masks(packed: Path, saved: Path, device_map: object) -> None:
    pytest.importorskip("accelerate", reason="transformers' device_map needs it")
    model = SamModel.from_pretrained(saved, device_map=device_map)
    assert torch.equal(outputs(model.to("cpu"))[0], outputs(saqsam.load(packed).model)[0])


def test_nothing_is_said_about_missing_or_untied_weights(
    saved: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        model, info = SamModel.from_pretrained(saved, output_loading_info=True)
    finally:
        logger.removeHandler(caplog.handler)
    assert caplog.messages == []
    assert not any(info.values())
    tied = model.prompt_encoder.shared_embedding.positional_embedding
    assert tied is model.shared_image_embedding.positional_embedding


def test_the_directory_is_hardly_larger_than_the_packed_file(packed: Path, saved: Path) -> None:
    assert {path.name for path in saved.iterdir()} == {
        WEIGHTS,
        "config.json",
        "processor_config.json",
        "README.md",
    }
    assert (saved / WEIGHTS).read_bytes() == packed.read_bytes()
    total = sum(path.stat().st_size for path in saved.iterdir())
    assert total < 1.03 * packed.stat().st_size


def test_saving_what_was_loaded_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    saqsam.load(saved).save_pretrained(tmp_path / "again")
    for path in saved.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_the_processor_and_the_pipeline_work(packed: Path, saved: Path, scenes: Path) -> None:
    model, processor = SamModel.from_pretrained(saved), SamProcessor.from_pretrained(saved)
    image = min((scenes / "images").iterdir())
    pixels = np.asarray(Image.open(image).convert("RGB"))
    height, width = pixels.shape[:2]
    box = [5.0, 5.0, width * 0.7, height * 0.8]
    inputs = processor(pixels, input_boxes=[[box]], return_tensors="pt")
    inputs["input_boxes"] = inputs["input_boxes"].float()
    with torch.no_grad():
        found = model(**inputs, multimask_output=False)
    (masks,) = processor.post_process_masks(
        found.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"]
    )
    mine = saqsam.load(packed).segment(pixels, boxes=[box]).masks[0]
    theirs = masks[0, 0].numpy()
    assert (mine & theirs).sum() / max(1, (mine | theirs).sum()) > 0.95


def test_the_pipeline_works(saved: Path, scenes: Path) -> None:
    pytest.importorskip("torchvision", reason="transformers' mask-generation pipeline needs it")
    model, processor = SamModel.from_pretrained(saved), SamProcessor.from_pretrained(saved)
    generate = pipeline("mask-generation", model=model, image_processor=processor.image_processor)
    image = min((scenes / "images").iterdir())
    found = generate(str(image), points_per_crop=4, pred_iou_thresh=0.0, stability_score_thresh=0.0)
    assert len(found["masks"]) > 0


def test_other_float_types_are_applied_after_loading(saved: Path) -> None:
    expected = outputs(SamModel.from_pretrained(saved))[1]
    for model in (
        SamModel.from_pretrained(saved).to(torch.bfloat16),
        SamModel.from_pretrained(saved, dtype=torch.bfloat16),
    ):
        assert model.dtype == torch.bfloat16
        assert (outputs(model)[1].float() - expected).abs().max() < 0.2


@pytest.fixture(scope="module")
def transformers_alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """Starts processes that have imported transformers' model and nothing of saqsam."""
    with launcher("from transformers import SamModel", tmp_path_factory.mktemp("printed")) as programs:
        yield programs


LOADING = (
    "import saqsam, sys; from transformers import SamModel\n"
    "print(type(SamModel.from_pretrained(sys.argv[1]).hf_quantizer).__name__)\n"
    "print([f for f in sys.meta_path if type(f).__module__.startswith('saqsam')])"
)


def test_saqsam_may_be_imported_before_transformers(saved: Path) -> None:
    done = in_a_fresh_python(LOADING, str(saved))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["SaqsamQuantizer", "[]"]


def test_saqsam_may_be_imported_after_the_model(saved: Path, transformers_alone: Launcher) -> None:
    done = transformers_alone.run(f"import sys; assert 'saqsam' not in sys.modules; {LOADING}", str(saved))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["SaqsamQuantizer", "[]"]


WITHOUT = "import sys; from transformers import SamModel; SamModel.from_pretrained(sys.argv[1])"


def test_without_saqsam_transformers_stops_as_the_card_and_the_docs_say(
    saved: Path, transformers_alone: Launcher
) -> None:
    done = transformers_alone.run(WITHOUT, str(saved))
    page = Path(__file__).resolve().parents[2] / "docs" / "transformers.md"
    assert done.returncode != 0
    for words in (
        "Unknown quantization type, got saqsam",
        "we will skip the quantization",
        "no file named model.safetensors",
    ):
        assert words in done.stderr
        assert words in (saved / "README.md").read_text(encoding="utf-8")
        assert words in page.read_text(encoding="utf-8")


def test_renamed_weights_are_random_without_saqsam_which_is_why_they_are_not_named_so(
    broken: Path, transformers_alone: Launcher
) -> None:
    (broken / WEIGHTS).rename(broken / "model.safetensors")
    done = transformers_alone.run(WITHOUT, str(broken))
    assert done.returncode == 0
    assert "MISSING" in done.stderr
    assert "UNEXPECTED" in done.stderr
    with pytest.raises(CheckpointError, match=WEIGHTS):
        SamModel.from_pretrained(broken)


@pytest.mark.parametrize("place", [0.02, 0.5, 0.9999])
def test_a_flipped_bit_is_refused(broken: Path, place: float) -> None:
    data = bytearray((broken / WEIGHTS).read_bytes())
    data[int(place * len(data))] ^= 4
    (broken / WEIGHTS).write_bytes(data)
    for load in (SamModel.from_pretrained, saqsam.load):
        with pytest.raises(CheckpointError):
            load(broken)
    assert run(["verify", str(broken)]) == 3


def test_a_changed_configuration_is_refused_by_key(broken: Path) -> None:
    config = json.loads((broken / "config.json").read_text())
    config["vision_config"]["window_size"] += 1
    (broken / "config.json").write_text(json.dumps(config))
    for load in (SamModel.from_pretrained, saqsam.load):
        with pytest.raises(CorruptCheckpoint, match=r"vision_config\.window_size"):
            load(broken)


def test_the_weights_of_another_model_are_refused(broken: Path, packed_nano: Callable[[str], Path]) -> None:
    shutil.copy(packed_nano("rtn-w8a8"), broken / WEIGHTS)
    for load in (SamModel.from_pretrained, saqsam.load):
        with pytest.raises(CorruptCheckpoint, match="another file"):
            load(broken)


@pytest.mark.skipif(os.name != "posix", reason="links need privileges elsewhere")
def test_a_link_out_of_the_directory_is_refused_but_not_the_hubs(
    saved: Path, broken: Path, tmp_path: Path
) -> None:
    (broken / WEIGHTS).unlink()
    (broken / WEIGHTS).symlink_to(saved / WEIGHTS)
    for load in (SamModel.from_pretrained, saqsam.load):
        with pytest.raises(CheckpointError, match="leads out of its directory"):
            load(broken)
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    blobs = tmp_path / "models--a--b" / "blobs"
    shutil.copytree(saved, snapshot)
    blobs.mkdir()
    (snapshot / WEIGHTS).rename(blobs / "ff")
    (snapshot / WEIGHTS).symlink_to(Path("../../blobs/ff"))
    assert saqsam.load(snapshot).bits == "w4a4"
    SamModel.from_pretrained(snapshot)


def test_the_configuration_names_no_file_that_is_followed(broken: Path, saved: Path) -> None:
    config = json.loads((broken / "config.json").read_text())
    for name in ("../../elsewhere.safetensors", str(saved / WEIGHTS)):
        config["transformers_weights"] = name
        (broken / "config.json").write_text(json.dumps(config))
        SamModel.from_pretrained(broken)  # the name is always the same, whatever is written there
    config["quantization_config"]["file"] = "../x"
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="unknown keys"):
        SamModel.from_pretrained(broken)


def test_missing_weights_and_many_devices_are_refused(broken: Path) -> None:
    from saqsam.drop_in.quantizer import SaqsamConfig, SaqsamQuantizer

    with pytest.raises(UsageError, match="one device"):
        SaqsamQuantizer(SaqsamConfig()).update_device_map({"vision_encoder": "cpu", "mask_decoder": "disk"})
    (broken / WEIGHTS).unlink()
    for load in (SamModel.from_pretrained, saqsam.load):
        with pytest.raises(CheckpointError, match="no such file"):
            load(broken)


def test_transformers_own_save_is_refused_not_written_as_floats(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="quantized with saqsam"):
        SamModel.from_pretrained(saved).save_pretrained(tmp_path / "floats")


def test_a_float_model_is_not_saved_this_way(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="float model"):
        saqsam.load("nano").save_pretrained(tmp_path / "x")
    assert isinstance(saqsam.load("nano"), Sam)


def test_the_verbs_take_the_directory(
    packed: Path, saved: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["verify", str(saved)]) == 0
    assert run(["inspect", str(saved)]) == 0
    evaluated = ["--images", str(scenes / "images"), "--annotations", str(scenes / "instances.json")]
    assert run(["evaluate", str(saved), *evaluated, "--limit", "1"]) == 0
    out = tmp_path / "exported"
    capsys.readouterr()
    assert run(["export", str(packed), "--format", "transformers", "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bytes"][WEIGHTS] == packed.stat().st_size
    assert (out / WEIGHTS).read_bytes() == packed.read_bytes()
    assert run(["export", str(packed), "--format", "transformers", "--out", str(out)]) == 2


def test_a_git_lfs_pointer_in_the_directory_is_called_one(broken: Path) -> None:
    (broken / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 900000\n")
    for load in (SamModel.from_pretrained, saqsam.load):
        with pytest.raises(CheckpointError, match="Git LFS pointer"):
            load(broken)


def test_what_no_sam_has_is_dropped_from_the_configuration(broken: Path) -> None:
    config = json.loads((broken / "config.json").read_text())
    config["_attn_implementation"] = config["attn_implementation"] = "somebody/kernels"
    config["vision_config"]["_attn_implementation"] = "somebody/kernels"
    config["num_labels_of_mine"] = [1] * 1000
    (broken / "config.json").write_text(json.dumps(config))
    expected = outputs(saqsam.load(broken).model)
    model = saqsam.load(broken).model
    assert not hasattr(model.config, "num_labels_of_mine")
    assert model.config._attn_implementation != "somebody/kernels"
    for one, other in zip(outputs(model), expected, strict=True):
        assert torch.equal(one, other)
