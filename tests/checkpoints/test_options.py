"""Options of loading behind a model's name, MedSAM's preprocessing among them; other SAMs that load."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conftest import make_tiny_sam, tiny_config
from tests.families.tiny_sam_hq import plain_sam_hq
from transformers import SamModel

from saqsam import api
from saqsam.checkpoints.load import load_float
from saqsam.checkpoints.official import write_official
from saqsam.errors import UsageError
from saqsam.families.framing import preprocess
from saqsam.jobs.identity import model_hash
from saqsam.scenes import write_scenes


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("med") / "medsam.pth"
    write_official(make_tiny_sam(), path)
    return path


def test_medsam_squashes_pictures_and_spreads_their_values(file: Path) -> None:
    model = api.load(f"{file}#preprocessing=medsam").model
    picture = np.full((20, 50, 3), 60, np.uint8)
    picture[:, 25:] = 160
    pixels, frame = preprocess(model, picture)
    assert (frame.original, frame.resized, frame.pads) == ((20, 50), (64, 64), False)
    assert (float(pixels.min()), float(pixels.max())) == (0.0, 1.0)
    assert float(pixels[..., :24].max()) < 0.1
    boxes = torch.tensor([[10.0, 5.0, 50.0, 20.0]])
    torch.testing.assert_close(frame.scale_boxes(boxes), torch.tensor([[12.8, 16.0, 64.0, 64.0]]))
    other = api.load(file).model
    assert model_hash(model) != model_hash(other)  # or shards of one would be continued with the other
    plain, frame = preprocess(other, picture)
    assert frame.resized == (26, 64)
    assert float(plain.min()) < 0


def test_an_option_is_kept_in_what_is_quantized(file: Path, tmp_path: Path) -> None:
    annotations = write_scenes(tmp_path / "scenes", 1, 3)
    images = tmp_path / "scenes" / "images"
    sam = api.quantize(api.load(f"{file}#preprocessing=medsam"), "rtn-w8a8", images, annotations)
    packed = tmp_path / "medsam-w8a8.safetensors"
    sam.save(packed)
    picture = next(images.iterdir())
    opened = api.load(packed)
    one, other = (each.segment(picture, boxes=[[5, 5, 60, 60]]) for each in (sam, opened))
    assert torch.equal(one.low_res_logits, other.low_res_logits)
    assert not preprocess(opened.model, np.zeros((8, 16, 3), np.uint8))[1].pads
    with pytest.raises(UsageError, match="no processor that prepares pictures as MedSAM does"):
        sam.save_pretrained(tmp_path / "directory")
    with pytest.raises(UsageError, match="holds the options it was quantized with"):
        api.load(f"{packed}#preprocessing=sam")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("hq_token_only", "SAM has no option 'hq_token_only' of loading; those it has: preprocessing"),
        ("preprocessing=ct", "option 'preprocessing' cannot be 'ct'; give 'sam', 'medsam'"),
        ("", "SAM has no option '' of loading"),
    ],
)
def test_options_without_meaning_are_told(file: Path, option: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        api.load(f"{file}#{option}")


def test_hq_token_only_and_a_file_with_the_mark_in_its_name(tmp_path: Path) -> None:
    path = tmp_path / "hq#1.pth"
    write_official(plain_sam_hq(), path)
    assert not getattr(api.load(path).model.config.mask_decoder_config, "hq_token_only", False)
    path = path.rename(tmp_path / "hq.pth")
    assert api.load(f"{path}#hq_token_only").model.config.mask_decoder_config.hq_token_only


@pytest.mark.parametrize("width", [168, 384])
def test_uniformly_pruned_sams_load_by_their_shapes(tmp_path: Path, width: int) -> None:
    """As SlimSAM-uniform: SAM-B's 12 heads on fewer channels, in the official layout."""
    config = tiny_config()
    vision = config.vision_config
    vision.hidden_size, vision.num_attention_heads = width, 12
    vision.num_hidden_layers, vision.mlp_dim = 2, 96
    vision.global_attn_indexes = [1]
    write_official(SamModel(config), tmp_path / "told.pth")
    state = dict(torch.load(tmp_path / "told.pth", weights_only=True))
    torch.save(state, tmp_path / "slim.pth")
    vision = load_float(tmp_path / "slim.pth").config.vision_config
    assert (vision.hidden_size, vision.num_attention_heads, vision.mlp_dim) == (width, 12, 96)
