"""SAM 2 and 3 as ONNX: the names that users of SAM 2 know, the model's codes and masks, and the engines."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tests.families.sam2_models import SIDE, tiny_sam2
from tests.families.sam3_models import tiny_sam3

from saqsam import api
from saqsam.bench.measure import measure
from saqsam.bench.rows import row_problem
from saqsam.export.api import export_file
from saqsam.export.cases import generated_cases
from saqsam.export.codes import encoder_codes, total_share
from saqsam.families.framing import preprocess
from saqsam.families.registry import decoder_of
from saqsam.graphs.exactness import Exactness
from saqsam.graphs.integer import Integer
from saqsam.graphs.writers import writers_of
from saqsam.native.library import levels_here
from saqsam.pack.file import read_packed
from saqsam.sam import Sam
from saqsam.scenes import make_scene, write_scenes
from saqsam.segment.predictor import embed

BOXES = torch.tensor([[10.0, 20, 80, 90], [5, 5, 50, 60], [40, 30, 60, 120]])
LEVELS = ["high_res_feats_0", "high_res_feats_1", "image_embed"]


@dataclass(frozen=True)
class Exported:
    """A quantized tiny model, its file, and the folder of its graphs."""

    sam: Sam
    path: Path
    folder: Path

    def session(self, name: str) -> onnxruntime.InferenceSession:
        return onnxruntime.InferenceSession(self.folder / name, providers=["CPUExecutionProvider"])


MODELS: dict[str, Callable[[], Any]] = {"SAM 2": tiny_sam2, "SAM 3": tiny_sam3}


@pytest.fixture(scope="module", params=MODELS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    root = tmp_path_factory.mktemp("graphs")
    annotations = write_scenes(root / "scenes", 1, 12)
    MODELS[request.param]().save_pretrained(root / "mine")
    path = root / "mine-w6a6.safetensors"
    sam = api.quantize(api.load(root / "mine"), "rtn-w6a6", root / "scenes" / "images", annotations)
    sam.save(path)
    export_file(path, root / "onnx", limit=1)
    return Exported(sam, path, root / "onnx")


def test_the_files_have_the_names_and_the_order_that_users_of_sam_2_know(exported: Exported) -> None:
    """They are often given by their place, so what saqsam adds comes last."""
    encoder, decoder = (exported.session(name) for name in ("encoder.onnx", "decoder.onnx"))
    assert [one.name for one in encoder.get_inputs()] == ["image"]
    assert [one.name for one in encoder.get_outputs()] == LEVELS
    assert [one.name for one in decoder.get_inputs()] == [
        "image_embed",
        "high_res_feats_0",
        "high_res_feats_1",
        "point_coords",
        "point_labels",
        "mask_input",
        "has_mask_input",
    ]
    names = [one.name for one in decoder.get_outputs()]
    assert names == ["masks", "iou_predictions", "object_score_logits", "single_mask"]
    assert encoder.get_outputs()[0].shape == ["batch", 4, 32, 32]


def test_parity_is_proved_for_every_activation(exported: Exported) -> None:
    parity = json.loads((exported.folder / "parity.json").read_text())["parity"]
    assert parity["sites"] == len(read_packed(exported.path).activations)
    assert parity["equal_codes"] >= 0.9995
    assert parity["decoder_equal_codes"] >= 0.999
    assert parity["decoder_mask_iou"] >= 0.999
    stored = {one.data_type for one in onnx.load(exported.folder / "encoder.onnx").graph.initializer}
    assert onnx.TensorProto.UINT8 in stored


def test_products_of_integers_make_the_same_codes(exported: Exported) -> None:
    packed = read_packed(exported.path)
    source = writers_of(packed).source(packed)
    pixels, _ = preprocess(exported.sam.model, generated_cases(1)[0].pixels)
    shares = encoder_codes(
        exported.sam.model, source, lambda graph, own: Integer(graph, own, Exactness()), pixels, 21
    )
    assert total_share(shares) > 0.9995


@pytest.mark.parametrize("exported", ["SAM 2"], indirect=True)
@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_a_stranger_gets_the_masks_the_scores_and_the_choice_of_the_setting(
    exported: Exported, tmp_path: Path, threshold: float
) -> None:
    """Corners of boxes with labels 2 and 3; of masks that are not stable another one is the single answer."""
    model: Any = exported.sam.model
    config = model.config.mask_decoder_config
    before = config.dynamic_multimask_stability_thresh
    config.dynamic_multimask_stability_thresh = threshold
    model.mask_decoder.dynamic_multimask_stability_thresh = threshold
    try:
        exported.sam.save(tmp_path / "other.safetensors")
        export_file(tmp_path / "other.safetensors", tmp_path / "onnx", verify=False)
        pixels = torch.randn((1, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(3))
        embedding = embed(model, pixels)
        given: dict[str, Any] = {"input_boxes": BOXES[None]}
        three = decoder_of(model).answer(embedding, multimask_output=True, **given)
        first = decoder_of(model).answer(embedding, **given)
        users = decoder_of(model).answer(embedding, may_switch=True, **given)
    finally:
        config.dynamic_multimask_stability_thresh = before
        model.mask_decoder.dynamic_multimask_stability_thresh = before
    fine, middle = embedding.features
    session = onnxruntime.InferenceSession(
        tmp_path / "onnx" / "decoder.onnx", providers=["CPUExecutionProvider"]
    )
    inputs = (
        embedding.main,
        fine,
        middle,
        BOXES.reshape(3, 2, 2),
        torch.tensor([2.0, 3.0]).expand(3, 2),
        torch.zeros(1, 1, SIDE // 4, SIDE // 4),
        torch.zeros(1),
    )
    names = [one.name for one in session.get_inputs()]
    masks, scores, objects, single = (
        torch.from_numpy(x)
        for x in session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})
    )
    close: dict[str, Any] = {"rtol": 0, "atol": 1e-4 * float(three.masks.abs().max())}
    torch.testing.assert_close(masks, torch.cat([first.masks, three.masks], dim=2)[0], **close)
    torch.testing.assert_close(scores[:, 1:], three.scores[0], rtol=0, atol=1e-5)
    assert first.objects is not None
    torch.testing.assert_close(objects[:, 0], first.objects[0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(masks[torch.arange(3), single], users.masks[0, :, 0], **close)
    assert (threshold > 0) or not single.any()


@pytest.mark.parametrize("engine", ["onnxruntime", "native"])
def test_engines_give_the_masks_of_the_packed_file(exported: Exported, engine: str) -> None:
    """To every kind of prompt. ``native`` is the next engine's where its kernels were not built."""
    sam, other = exported.sam, api.load(exported.path, engine=engine)
    assert other.engine == (engine if levels_here() else "onnxruntime")
    picture, boxes = make_scene(np.random.default_rng(5), (96, 128)).image, BOXES.tolist()
    masks = sam.segment(picture, boxes=boxes).low_res_logits
    clicks = [[20.0, 20], [60, 50], [40, 50]]
    every: tuple[dict[str, Any], ...] = (
        {"boxes": boxes},
        {"points": clicks},
        {"masks": masks},
        {"boxes": boxes, "points": clicks, "masks": masks},
    )
    for given in every:
        for multimask in (False, True):
            one, two = (x.segment(picture, **given, multimask_output=multimask) for x in (sam, other))
            torch.testing.assert_close(one.low_res_logits, two.low_res_logits, atol=1e-3, rtol=0)
            np.testing.assert_allclose(one.object_scores, two.object_scores, atol=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize("exported", ["SAM 2"], indirect=True)
def test_float_graphs_are_the_float_model_and_bench_knows_who_computes_it(exported: Exported) -> None:
    _, expected = measure("torch float", exported.path, 1)
    _, masks = measure("onnxruntime float", exported.path, 1)
    assert (masks[0] == expected[0]).mean() > 0.9999
    packed = read_packed(exported.path)
    assert not row_problem("integer", packed, exported.path)
    assert bool(row_problem("native", packed, exported.path)) == (not levels_here())
