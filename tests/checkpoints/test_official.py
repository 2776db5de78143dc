"""The official layout: its names, written out here a second time, and the way there and back."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.full_disk import files_end_at
from torch import Tensor
from transformers import SamConfig, SamModel

from saqsam.checkpoints.config import checked_config
from saqsam.checkpoints.load import load_float
from saqsam.checkpoints.official import write_official
from saqsam.errors import CheckpointError
from saqsam.families.sam_layout import SAM_LAYOUT, TIED
from saqsam.families.sam_sizes import parts_from_shapes, size_name
from saqsam.images.frame import Frame
from saqsam.models.attach import attach
from saqsam.models.plan import plan_sites
from saqsam.prompts.prompts import Prompts
from saqsam.recipe import load_recipe
from saqsam.segment.predictor import decode, embed

((POSITIONS, TIED_POSITIONS),) = TIED

# name: width, depth, heads, global blocks, tensors in the official file
SIZES = {
    "vit_b": (768, 12, 12, (2, 5, 8, 11), 314),
    "vit_l": (1024, 24, 16, (5, 11, 17, 23), 482),
    "vit_h": (1280, 32, 16, (7, 15, 23, 31), 594),
}


def to_official(state: dict[str, Any]) -> dict[str, Any]:
    """A SAM's names as its authors have them; none of its tensors is stored in parts."""
    return SAM_LAYOUT.to_official(state, lambda whole: [whole])


def to_transformers(state: dict[str, Any]) -> dict[str, Any]:
    """The inverse."""
    return SAM_LAYOUT.to_transformers(state, lambda parts: parts[0])


def official_shapes(
    width: int, depth: int, heads: int, global_blocks: tuple[int, ...]
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the files of facebookresearch/segment-anything."""
    shapes: dict[str, tuple[int, ...]] = {
        "image_encoder.pos_embed": (1, 64, 64, width),
        "image_encoder.patch_embed.proj.weight": (width, 3, 16, 16),
        "image_encoder.patch_embed.proj.bias": (width,),
        "image_encoder.neck.0.weight": (256, width, 1, 1),
        "image_encoder.neck.2.weight": (256, 256, 3, 3),
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix": (2, 128),
        "prompt_encoder.mask_downscaling.0.weight": (4, 1, 2, 2),
        "prompt_encoder.mask_downscaling.3.weight": (16, 4, 2, 2),
        "prompt_encoder.mask_downscaling.6.weight": (256, 16, 1, 1),
        "mask_decoder.iou_token.weight": (1, 256),
        "mask_decoder.mask_tokens.weight": (4, 256),
        "mask_decoder.output_upscaling.0.weight": (256, 64, 2, 2),
        "mask_decoder.output_upscaling.3.weight": (64, 32, 2, 2),
    }
    biases = {"0": 4, "1": 4, "3": 16, "4": 16, "6": 256}
    shapes |= {f"prompt_encoder.mask_downscaling.{i}.bias": (n,) for i, n in biases.items()}
    shapes |= {f"prompt_encoder.mask_downscaling.{i}.weight": (biases[i],) for i in "14"}
    shapes |= {f"prompt_encoder.point_embeddings.{i}.weight": (1, 256) for i in range(4)}
    shapes |= {f"prompt_encoder.{kind}_embed.weight": (1, 256) for kind in ("not_a_point", "no_mask")}
    shapes |= {f"mask_decoder.output_upscaling.{i}.bias": (n,) for i, n in (("0", 64), ("1", 64), ("3", 32))}
    shapes["mask_decoder.output_upscaling.1.weight"] = (64,)

    def norm(name: str, channels: int) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (channels,)

    def linear(name: str, outputs: int, inputs: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs), (outputs,)

    norm("image_encoder.neck.1", 256)
    norm("image_encoder.neck.3", 256)
    for i in range(depth):
        block = f"image_encoder.blocks.{i}"
        rows = 2 * (64 if i in global_blocks else 14) - 1
        norm(f"{block}.norm1", width)
        norm(f"{block}.norm2", width)
        linear(f"{block}.attn.qkv", 3 * width, width)
        linear(f"{block}.attn.proj", width, width)
        linear(f"{block}.mlp.lin1", 4 * width, width)
        linear(f"{block}.mlp.lin2", width, 4 * width)
        shapes[f"{block}.attn.rel_pos_h"] = shapes[f"{block}.attn.rel_pos_w"] = (rows, width // heads)

    def attention(name: str, inner: int) -> None:
        for projection in ("q_proj", "k_proj", "v_proj"):
            linear(f"{name}.{projection}", inner, 256)
        linear(f"{name}.out_proj", 256, inner)

    transformer = "mask_decoder.transformer"
    for i in range(2):
        layer = f"{transformer}.layers.{i}"
        attention(f"{layer}.self_attn", 256)
        attention(f"{layer}.cross_attn_token_to_image", 128)
        attention(f"{layer}.cross_attn_image_to_token", 128)
        linear(f"{layer}.mlp.lin1", 2048, 256)
        linear(f"{layer}.mlp.lin2", 256, 2048)
        for number in range(1, 5):
            norm(f"{layer}.norm{number}", 256)
    attention(f"{transformer}.final_attn_token_to_image", 128)
    norm(f"{transformer}.norm_final_attn", 256)
    outputs = {**{f"output_hypernetworks_mlps.{i}": 32 for i in range(4)}, "iou_prediction_head": 4}
    for name, last in outputs.items():
        linear(f"mask_decoder.{name}.layers.0", 256, 256)
        linear(f"mask_decoder.{name}.layers.1", 256, 256)
        linear(f"mask_decoder.{name}.layers.2", last, 256)
    return shapes


def meta_model(size: str) -> SamModel:
    width, depth, heads, global_blocks, _ = SIZES[size]
    config = SamConfig(
        vision_config={
            "hidden_size": width,
            "num_hidden_layers": depth,
            "num_attention_heads": heads,
            "global_attn_indexes": list(global_blocks),
            "mlp_dim": 4 * width,
        }
    )
    with torch.device("meta"):
        return SamModel(config)


@pytest.mark.parametrize("size", SIZES)
def test_names_and_shapes_are_those_of_the_official_files(size: str) -> None:
    *sizes, count = SIZES[size]
    expected = official_shapes(*sizes)  # type: ignore[arg-type]
    assert len(expected) == count
    held = {name: tuple(tensor.shape) for name, tensor in meta_model(size).state_dict().items()}
    assert len(held) == count + 1  # the positional embedding has two names here
    assert to_official(held) == expected
    assert to_transformers(expected) == held


@pytest.mark.parametrize("size", SIZES)
def test_sizes_are_read_from_the_shapes_of_an_official_file(size: str) -> None:
    width, depth, heads, global_blocks, _ = SIZES[size]
    shapes = to_transformers(official_shapes(width, depth, heads, global_blocks))
    config: Any = checked_config(Path("some.pth"), parts_from_shapes(shapes))
    vision, decoder = config.vision_config, config.mask_decoder_config
    assert size_name(shapes) == size
    assert (vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads) == (width, depth, heads)
    assert tuple(vision.global_attn_indexes) == global_blocks
    assert (vision.image_size, vision.patch_size, vision.window_size) == (1024, 16, 14)
    assert (vision.layer_norm_eps, vision.hidden_act, decoder.hidden_act) == (1e-6, "gelu", "relu")
    assert (decoder.num_attention_heads, decoder.attention_downsample_rate) == (8, 2)
    assert decoder.layer_norm_eps == 1e-5
    with torch.device("meta"):
        model = SamModel(config)
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == shapes


def sparse_safetensors(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A file of float16 zeros that takes no room on disk."""
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * int(torch.Size(shape).numel())
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.truncate(8 + len(encoded) + end)


def test_a_whole_vit_b_in_half_precision_becomes_float32(tmp_path: Path) -> None:
    *sizes, _ = SIZES["vit_b"]
    path = tmp_path / "sam_vit_b_01ec64.safetensors"
    sparse_safetensors(path, official_shapes(*sizes))  # type: ignore[arg-type]
    model = load_float(path)
    table = model.shared_image_embedding.positional_embedding.numel()  # a buffer in the published code
    assert sum(parameter.numel() for parameter in model.parameters()) - table == 93_735_472
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    path.rename(tmp_path / "sam_vit_l_0b3195.safetensors")
    with pytest.raises(CheckpointError, match="its name says vit_l, its weights look like vit_b"):
        load_float(tmp_path / "sam_vit_l_0b3195.safetensors")


def assert_same_model(loaded: SamModel, original: SamModel) -> None:
    """Bit-equal tensors, and everything that load_float promises besides."""
    expected, state = original.state_dict(), loaded.state_dict()
    assert list(state) == list(expected)
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor), name
    assert not loaded.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in loaded.parameters())
    positions = loaded.prompt_encoder.shared_embedding.positional_embedding
    assert positions is loaded.shared_image_embedding.positional_embedding
    decoder_norms = [
        module
        for name, module in loaded.mask_decoder.transformer.named_modules()
        if "norm" in name.split(".")[-1]
    ]
    assert len(decoder_norms) == 9
    assert {norm.eps for norm in decoder_norms} == {1e-5}
    assert_same_outputs(loaded, original)


def assert_same_outputs(loaded: SamModel, original: SamModel) -> None:
    pixels = torch.randn((1, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    embedding = embed(original, pixels)
    torch.testing.assert_close(embed(loaded, pixels).main, embedding.main, atol=1e-5, rtol=1e-5)
    boxes = torch.tensor([[3.0, 4.0, 40.0, 50.0], [0.0, 0.0, 64.0, 64.0]])
    points = torch.tensor([[[9.0, 9.0], [20.0, 30.0]], [[1.0, 60.0], [33.0, 2.0]]])
    labels = torch.tensor([[1, 0], [1, 1]])
    masks = torch.randn((2, 1, 32, 32), generator=torch.Generator().manual_seed(1))
    for given in (
        {"boxes": boxes},
        {"points": points, "labels": labels},
        {"boxes": boxes, "masks": masks},
        {"masks": masks},
    ):
        prompts, frame = Prompts(**given), Frame((64, 64), (64, 64), 64)
        for got, expected in zip(
            decode(loaded, embedding, prompts, frame, multimask_output=True),
            decode(original, embedding, prompts, frame, multimask_output=True),
            strict=True,
        ):
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_an_official_pth_comes_back_bit_equal(tiny_sam: SamModel, tmp_path: Path) -> None:
    path = tmp_path / "tiny.pth"
    write_official(tiny_sam, path)
    assert_same_model(load_float(path), tiny_sam)
    assert sorted(os.listdir(tmp_path)) == ["tiny.pth"]
    state = torch.load(path, weights_only=True)
    assert "mask_decoder.output_upscaling.0.weight" in state
    assert not any("vision_encoder" in name or "shared" in name for name in state)


def test_safetensors_of_both_layouts_come_back_bit_equal(tiny_sam: SamModel, tmp_path: Path) -> None:
    state = {name: tensor.clone() for name, tensor in tiny_sam.state_dict().items()}
    untied = {name: tensor for name, tensor in state.items() if name != TIED_POSITIONS}
    # 32 channels in 2 heads are not what shapes alone suggest, so the sizes travel beside the file.
    (tmp_path / "config.json").write_text(json.dumps(tiny_sam.config.to_dict(), default=str))
    for name, tensors in (("tied", state), ("untied", untied), ("official", to_official(state))):
        path = tmp_path / f"{name}.safetensors"
        save_file(tensors, path)
        assert_same_model(load_float(path), tiny_sam)


@pytest.mark.parametrize("shards", [False, True])
def test_a_transformers_directory_comes_back_bit_equal(
    tiny_sam: SamModel, tmp_path: Path, shards: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    tiny_sam.config.mask_decoder_config.layer_norm_eps = 1e-6  # what transformers' own conversion writes
    tiny_sam.save_pretrained(tmp_path, max_shard_size="100KB" if shards else "1GB")
    assert (tmp_path / "model.safetensors.index.json").exists() is shards
    assert_same_model(load_float(tmp_path), tiny_sam)
    capfd.readouterr()


def test_a_directory_with_torch_weights_works_too(tiny_sam: SamModel, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(tiny_sam.config.to_dict(), default=str))
    torch.save(tiny_sam.state_dict(), tmp_path / "pytorch_model.bin")
    assert_same_model(load_float(tmp_path), tiny_sam)


@pytest.mark.parametrize("wrap", ["model", "state_dict", "model_state_dict"])
def test_what_training_scripts_put_around_the_tensors_is_taken_off(
    tiny_sam: SamModel, tmp_path: Path, wrap: str
) -> None:
    path = tmp_path / "epoch.pth"
    write_official(tiny_sam, path)
    state = torch.load(path, weights_only=True)
    wrapped = type(state)((f"module.{name}", tensor) for name, tensor in state.items())
    wrapped["module.pixel_mean"] = torch.zeros(3, 1, 1)
    wrapped._metadata = state._metadata
    torch.save({wrap: wrapped, "epoch": 3}, path)
    assert_same_model(load_float(path), tiny_sam)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_become_float32(tiny_sam: SamModel, tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "half.pth"
    write_official(tiny_sam, path)
    state = torch.load(path, weights_only=True)
    for name in state:
        state[name] = state[name].to(dtype)
    torch.save(state, path)
    loaded = load_float(path).state_dict()
    for name, tensor in tiny_sam.state_dict().items():
        assert torch.equal(loaded[name], tensor.to(dtype).float()), name


def test_loading_does_not_hold_on_to_the_file(tiny_sam: SamModel, tmp_path: Path) -> None:
    path = tmp_path / "tiny.pth"
    write_official(tiny_sam, path)
    model = load_float(path)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert_same_model(model, tiny_sam)


def test_sdpa_and_eager_agree(tiny_sam: SamModel, tmp_path: Path) -> None:
    path = tmp_path / "tiny.pth"
    write_official(tiny_sam, path)
    fused = load_float(path, attention="sdpa")
    assert type(fused.vision_encoder.layers[0].attn).__name__ == "SamVisionSdpaAttention"
    assert type(load_float(path).vision_encoder.layers[0].attn).__name__ == "SamVisionAttention"
    assert_same_outputs(fused, tiny_sam)


def test_writing_refuses_what_the_layout_cannot_hold(tiny_sam: SamModel, tmp_path: Path) -> None:
    attach(tiny_sam, plan_sites(tiny_sam, load_recipe("rtn")))
    with pytest.raises(CheckpointError, match="no place for quantized activations"):
        write_official(tiny_sam, tmp_path / "q.pth")
    tiny: Any = tiny_sam
    tiny.extra = torch.nn.Linear(2, 2)
    with pytest.raises(KeyError, match=r"extra\.weight"):
        to_official({name: tensor for name, tensor in tiny.state_dict().items() if "quantizer" not in name})
    assert os.listdir(tmp_path) == []


def test_a_failed_write_leaves_the_old_file(tiny_sam: SamModel, tmp_path: Path) -> None:
    path = tmp_path / "tiny.pth"
    path.write_bytes(b"old")

    with files_end_at(10_000), pytest.raises(OSError, match="File too large"):
        write_official(tiny_sam, path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["tiny.pth"]


def test_two_names_for_one_tensor_are_refused() -> None:
    def both(value: Tensor) -> dict[str, Tensor]:
        return {"image_encoder.pos_embed": value, "vision_encoder.pos_embed": value}

    with pytest.raises(ValueError, match=r"'vision_encoder\.pos_embed' under two names"):
        to_transformers(both(torch.zeros(1)))
    assert POSITIONS not in to_transformers({})
