"""Configuration files of the published code become recipes; what has no counterpart is refused or noted."""

from __future__ import annotations

from pathlib import Path

import pytest

from saqsam.errors import RecipeError
from saqsam.recipe import Recipe, import_published

TABLE = "    observer: {observer}\n    bit: {bit}\n    symmetric: False\n"
RECON = "recon: {batch_size: 1, scale_lr: 0.002, warm_up: 0.2, weight: 0.02, iters: 20000, iters_CAMS: 2000, "
RECON += "b_range: [20, 2], keep_gpu: true, round_mode: learned_hard_sigmoid, drop_prob: 0.5}\n"


def saq_sam(bits: int = 4, extra: str = "") -> str:
    tables = [
        f"{half}_{kind}_qconfig:\n{TABLE.format(observer=observer, bit=bits)}"
        for half in ("encoder", "decoder")
        for kind, observer in (("a", "AvgMSEFastObserver"), ("w", "MSEObserver"))
    ]
    method = f"ptq4sam: {{BIG: true, AGQ: true, global_num: 128, threshold: 0.6{extra}}}\n"
    return "".join(tables) + "calibrate: 16\n" + RECON + method


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config_SA_44.yaml"


def test_saq_sam(file: Path) -> None:
    file.write_text(saq_sam(6))
    recipe, notes = import_published(file)
    assert (recipe.name, recipe.bits, recipe.attention_grid) == ("config_SA_44", "w6a6", "log2")
    assert (recipe.weight_ranges.method, recipe.activation_ranges.method) == ("mse", "mse")
    assert (recipe.clip.method, recipe.clip.images, recipe.clip.focus_threshold) == ("pcc", 1, 0.6)
    assert recipe.calibration.images == 16
    learned = recipe.reconstruct
    assert (learned.encoder, learned.decoder, learned.unit) == ("par", "par", "stage")
    assert (learned.iterations, learned.batch, learned.scale_rate) == (2000, 1, 0.002)
    assert any("logarithm" in note for note in notes)
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe


def test_flags_decide_what_the_file_leaves_open(file: Path) -> None:
    file.write_text(saq_sam())
    recipe, _ = import_published(file, ffc=False, encoder="ori", decoder="no")
    assert recipe.clip.method == "none"
    learned = recipe.reconstruct
    assert (learned.encoder, learned.decoder, learned.unit, learned.targets) == (
        "local",
        "none",
        "block",
        "float",
    )


def test_ptq4sam(file: Path) -> None:
    text = f"a_qconfig:\n{TABLE.format(observer='AvgMinMaxObserver', bit=4)}"
    text += f"w_qconfig:\n{TABLE.format(observer='MSEObserver', bit=3)}"
    file.write_text(
        text + "calibrate: 32\n" + RECON + "ptq4sam: {BIG: true, AGQ: false, peak_height: 0.02}\n"
    )
    recipe, notes = import_published(file)
    assert (recipe.bits, recipe.attention_grid, recipe.clip.method) == ("w3a4", "affine", "none")
    assert recipe.activation_ranges.method == "minmax"
    assert recipe.reconstruct.encoder == "local"
    assert "ptq4sam.peak_height is 0.01 here and cannot be set" in notes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (saq_sam().replace("iters:", "itres:"), r"recon: itres: unknown key; did you mean 'iters'"),
        (saq_sam() + "recon_encoder: CAMS\n", "recon_encoder: a flag of the test script.*--recon-encoder"),
        (saq_sam() + "FFC_threshold: 0.5\n", r"FFC_threshold: a flag.*clip\.focus_threshold"),
        (saq_sam() + "drop_prob: 0.5\n", r"drop_prob: a key of another section.*quantized_share"),
        (saq_sam() + "colour: red\n", "colour: unknown key; known keys: encoder_a_qconfig"),
        (saq_sam().replace("symmetric: False", "symmetric: True"), "grids are asymmetric"),
        (
            saq_sam().replace("AvgMSEFastObserver", "AvgMSEFasterObserver"),
            "did you mean 'AvgMSEFastObserver'",
        ),
        (saq_sam(9), "9 is outside 2 to 8"),
        (saq_sam().replace("[20, 2]", "7"), "b_range: expected two numbers, found 7"),
        ("name: mse\n", "unknown key"),
        ("- 1\n", "expected a mapping of keys, found a list"),
    ],
)
def test_what_cannot_be_carried_over_is_refused(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(RecipeError, match=message) as caught:
        import_published(file)
    assert str(file) in str(caught.value)


def test_an_unknown_flag_is_refused(file: Path) -> None:
    file.write_text(saq_sam())
    with pytest.raises(RecipeError, match="--recon-encoder CAM: expected one of none, no, ori"):
        import_published(file, encoder="CAM")


@pytest.mark.parametrize("own_section", [True, False])
def test_ahcptq(file: Path, own_section: bool) -> None:
    text = f"a_qconfig:\n{TABLE.format(observer='AvgMinMaxObserver', bit=4)}"
    text += f"w_qconfig:\n{TABLE.format(observer='MSEObserver', bit=4)}calibrate: 32\n" + RECON
    grids = "cag: true, group: 8, hluq: true"
    method = "ptq4sam: {BIG: true, AGQ: true"
    text += f"{method}}}\nahcptq: {{{grids}}}\n" if own_section else f"{method}, {grids}}}\n"
    file.write_text(text)
    found = import_published(file)[0].activation_grids
    assert (found.projections, found.groups, found.mlp_hidden) == ("grouped", 8, "hybrid")
