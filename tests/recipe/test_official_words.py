"""Who knows the published code is understood, or told what its word is here."""

from __future__ import annotations

from pathlib import Path

import pytest

from saqsam.errors import RecipeError, UsageError
from saqsam.recipe import Recipe, load_recipe
from saqsam.recipe.compare import differences
from saqsam.recipe.only import only


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("reconstruct.encoder=CAMS", ("par", "par", "block")),
        ("reconstruct.decoder=CLM", ("local", "par", "block")),
        ("reconstruct.encoder=PAR", ("par", "par", "block")),
        ("reconstruct.decoder=original", ("local", "local", "block")),
        ("reconstruct.decoder=no", ("local", "none", "block")),
        ("reconstruct.unit=per_stage", ("local", "par", "stage")),
    ],
)
def test_values_by_their_official_words(setting: str, values: tuple[str, ...]) -> None:
    base = ["reconstruct.encoder=ori", "reconstruct.decoder=par", "reconstruct.unit=block"]
    found = load_recipe("saq-sam", settings=[*base, setting]).reconstruct
    assert (found.encoder, found.decoder, found.unit) == values


def test_they_are_stored_by_our_words_wherever_they_come_from() -> None:
    recipe = Recipe.from_yaml("name: x\nreconstruct: {encoder: no, decoder: CLM}\nattention_grid: AGQ\n")
    assert (recipe.reconstruct.encoder, recipe.reconstruct.decoder) == ("none", "par")
    assert recipe.to_dict()["attention_grid"] == "log2"
    assert recipe == Recipe.from_dict(recipe.to_dict())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("bits=6", "--bits w6a6"),
        ("FFC=true", r"clip\.method=pcc"),
        ("recon_encoder=CAMS", r"reconstruct\.encoder"),
        ("recon-unit=per_stage", r"reconstruct\.unit"),
        ("reconstruct.iters=3", r"reconstruct\.iterations"),
        ("calib_num=3", r"calibration\.images"),
        ("encoder.weight=3", "did you mean 'weights'"),
        ("reconstruct.encoder=CAM", "'CAM' is not one of none, local, par"),
    ],
)
def test_keys_are_named_by_our_words(setting: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe("saq-sam", settings=[setting])


def test_settings_as_a_mapping() -> None:
    texts = load_recipe(
        "mse", settings=["clip.sweeps=3", "overrides.a.b*:weight.bits=8", "encoder.weights=6"]
    )
    flat = {"clip.sweeps": 3, "overrides.a.b*:weight.bits": 8, "encoder.weights": "6"}
    nested = {"clip": {"sweeps": 3}, "overrides": {"a.b*:weight": {"bits": 8}}, "encoder": {"weights": 6}}
    assert load_recipe("mse", settings=flat) == load_recipe("mse", settings=nested) == texts
    assert load_recipe("mse", settings="clip.sweeps=3").clip.sweeps == 3
    with pytest.raises(RecipeError, match="did you mean 'sweeps'"):
        load_recipe("mse", settings={"clip": {"sweep": 3}})
    with pytest.raises(RecipeError, match=r"clip\.sweeps: expected integer"):
        load_recipe("mse", settings={"clip": {"sweeps": [3]}})


def test_a_recipe_file_in_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text("name: mine\n")
    assert load_recipe("~/mine.yaml").name == "mine"


def test_one_half_alone() -> None:
    recipe = load_recipe("saq-sam")
    encoder, decoder = only(recipe, "encoder"), only(recipe, "decoder")
    assert (encoder.bits, decoder.bits) == ("w4a4/float", "float/w4a4")
    assert (encoder.reconstruct.encoder, encoder.reconstruct.decoder) == ("par", "none")
    assert (encoder.clip.method, decoder.clip.method) == ("none", "pcc")
    assert decoder.name == "saq-sam-decoder-only"
    with pytest.raises(UsageError, match="--only neck: expected encoder or decoder"):
        only(recipe, "neck")


def test_the_published_schedules_are_those_of_the_page() -> None:
    paper = load_recipe("saq-sam-paper")
    settings = (
        *("reconstruct.iterations=2000", "reconstruct.batch=1", "reconstruct.prompts=16"),
        *("reconstruct.weight_rate=0.001", "reconstruct.scale_rate=0.002", "clip.images=1"),
        *("reconstruct.targets=quantized-input", "rel_pos_query=float"),
    )
    assert differences(paper, load_recipe("saq-sam", settings=settings)) == []
    changed = {one.key: (one.one, one.other) for one in differences(paper, load_recipe("saq-sam"))}
    assert changed["reconstruct.iterations"] == (2000, 500)
    assert len(changed) == len(settings)
    long = load_recipe("ptq4sam-l-paper").reconstruct
    assert (long.iterations, long.batch, long.scale_rate) == (20_000, 1, 4e-5)
