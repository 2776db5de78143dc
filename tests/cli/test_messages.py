"""Every verb, called wrongly: the exit code, one line that names what is wrong, and nothing on stdout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

import saqsam

if TYPE_CHECKING:
    from tests.cli.conftest import Ground, Saqsam

OPTIONS = {
    "demo": [
        *(
            "--out",
            "--images",
            "--calibration",
            "--pictures",
            "--image",
            "--box",
            "--point",
            "--force",
            "--json",
        ),
    ],
    "quantize": [
        *("MODEL", "--images", "--out", "--recipe", "--bits", "--set", "--annotations", "--prompts"),
        *("--device", "--fast", "--only", "--dry-run", "--force", "--json"),
    ],
    "inspect": ["MODEL", "--sites", "--json"],
    "verify": ["FILE", "--json"],
    "segment": [
        *("MODEL", "IMAGE", "--box", "--point", "--not-point", "--detections", "--annotations", "--out"),
        *("--top-k", "--score-threshold", "--overlay", "--device", "--force", "--json"),
    ],
    "evaluate": [
        *("MODEL", "--images", "--annotations", "--prompts", "--reference", "--limit", "--top-k"),
        *("--score-threshold", "--as-published", "--calibration", "--device", "--json"),
    ],
    "compare": [
        *("MODEL", "--images", "--annotations", "--prompts", "--reference", "--out", "--pictures", "--limit"),
        *("--top-k", "--score-threshold", "--device", "--force", "--json"),
    ],
    "recipe list": ["--json"],
    "recipe show": ["NAME", "--bits", "--set", "--only", "--diff", "--json"],
}


@pytest.mark.parametrize("verb", OPTIONS)
def test_help_lists_every_option_and_says_what_the_verb_does(saqsam: Saqsam, verb: str) -> None:
    shown = saqsam(*verb.split(), "--help")
    assert (shown.code, shown.err) == (0, "")
    missing = [option for option in OPTIONS[verb] if option not in shown.out]
    assert not missing
    assert f"Usage: saqsam {verb}" in shown.out


def test_help_of_all_lists_the_verbs_and_the_exit_codes(saqsam: Saqsam) -> None:
    shown = saqsam()
    assert shown.code == 0
    for verb in {words.split()[0] for words in OPTIONS}:
        assert f"\n  {verb} " in shown.out
    assert "0 done, 1 an error you can mend, 2 usage, 3 a bad input file" in " ".join(shown.out.split())


IMAGES, ANNOTATIONS = ("--images", "{images}"), ("--annotations", "{annotations}")
QUANTIZE = ("quantize", "nano", *IMAGES, "--out", "{tmp}/new.safetensors")
EVALUATE = ("evaluate", "nano", *IMAGES, *ANNOTATIONS)
COMPARE = ("compare", "nano", "{packed}", *IMAGES, *ANNOTATIONS)
SEGMENT = ("segment", "nano", "{images}/000001.png")
BOX = ("--box", "1,2,30,40")
FOLDER = ("segment", "nano", "{images}", "--detections", "{detections}", "--out", "{tmp}/new.json")

WRONG_USAGE = [
    # a verb or an option that does not exist
    (("evaluat",), "Did you mean 'evaluate'?"),
    ((*EVALUATE, "--imagse", "x"), "No such option: --imagse"),
    ((*EVALUATE[:3], "", *ANNOTATIONS), "nothing after --images: is a variable of the shell not set?"),
    ((*EVALUATE, "--show-dir="), "nothing after --show-dir"),
    # something required is missing
    (("quantize", "nano", *IMAGES), "'--out'"),
    (("quantize",), "'MODEL'"),
    (("evaluate", "nano", *IMAGES), "'--annotations'"),
    (("compare", *IMAGES, *ANNOTATIONS), "MODEL"),
    (("compare", "nano", *IMAGES, *ANNOTATIONS), "at least two models"),
    (("inspect",), "'MODEL'"),
    (("verify",), "'FILE'"),
    (("segment", "nano"), "'IMAGE'"),
    (("recipe", "show"), "'NAME'"),
    (("demo", "--out"), "'--out' requires an argument"),
    # a value of the wrong type or outside its range
    (("demo", "--images", "0"), "'--images'"),
    (("demo", "--pictures", "many"), "'--pictures'"),
    ((*EVALUATE, "--limit", "few"), "'--limit'"),
    ((*EVALUATE, "--limit", "0"), "'--limit'"),
    ((*EVALUATE, "--top-k", "0", "--prompts", "{detections}"), "'--top-k'"),
    ((*EVALUATE, "--top-k", "3"), "--top-k: chooses among detections"),
    ((*EVALUATE, "--score-threshold", "0.5"), "--score-threshold: chooses among detections"),
    ((*EVALUATE, "--score-threshold", "nan", "--prompts", "{detections}"), "--score-threshold nan"),
    ((*EVALUATE, "--prompts", "circles"), "--prompts circles: expected boxes, points"),
    ((*EVALUATE, "--device", "abacus"), "abacus"),
    ((*COMPARE, "--pictures", "-1"), "'--pictures'"),
    ((*SEGMENT, "--box", "1,2,3"), "--box 1,2,3: expected 4 numbers"),
    ((*SEGMENT, "--point", "left"), "--point left: expected 2 numbers"),
    (SEGMENT, "at least one --box"),
    ((*SEGMENT, "--box", "1,2,30,40", "--out", "mask.jpg"), "--out mask.jpg"),
    ((*SEGMENT, "--box", "1,2,30,40", "--overlay", "picture.doc"), "--overlay picture.doc"),
    ((*SEGMENT, "--box", "1,2,30,40", "--detections", "{detections}"), "--detections is for a folder"),
    ((*SEGMENT, "--box", "1,2,30,40", "--top-k", "3"), "--top-k is for a folder"),
    ((*FOLDER, "--box", "1,2,30,40"), "a folder is segmented with --detections"),
    (("segment", "nano", "{images}"), "--detections FILE"),
    ((*FOLDER[:-1], "{tmp}/new.png"), "written as .json"),
    (
        (*SEGMENT, *BOX, "--out", "{images}/m.png", "--overlay", "{images}/../images/m.png"),
        "--out and --overlay name the same file",
    ),
    # a recipe that does not exist, or does not mean anything
    ((*QUANTIZE, "--set", "clip.focus_treshold=0.5"), "did you mean 'focus_threshold'?"),
    ((*QUANTIZE, "--set", "clip.focus_threshold=warm"), "clip.focus_threshold"),
    ((*QUANTIZE, "--set", "clip"), "expected key=value"),
    ((*QUANTIZE, "--recipe", "saq-sam-stra"), "did you mean 'saq-sam-star'?"),
    ((*QUANTIZE, "--bits", "w9a4"), "9 weight bits"),
    ((*QUANTIZE, "--bits", "four"), "four"),
    ((*QUANTIZE, "--set", "bits=6"), "--bits w6a6"),
    ((*QUANTIZE, "--only", "neck"), "--only neck: expected encoder or decoder"),
    ((*EVALUATE, "--as-published", "rtn", "--calibration", "{images}"), "use qdrop, ptq4sam-l or saq-sam"),
    ((*EVALUATE, "--calibration", "{images}"), "goes with --as-published"),
    (("recipe", "show", "rtnn"), "did you mean 'rtn'?"),
    (("recipe", "show", "{tmp}/none.yaml"), "none.yaml"),
    ((*QUANTIZE, "--run", "{annotations}"), "this is a file; name a directory"),
    # files that are not there, or not what they should be
    ((*EVALUATE, "--device", "meta"), "device 'meta': cannot be used here"),
    ((*EVALUATE[:2], "--images", "{tmp}/none", *ANNOTATIONS), "there is no such directory"),
    ((*EVALUATE[:2], "--images", "{annotations}", *ANNOTATIONS), "it is a file"),
    ((*EVALUATE[:4], "--annotations", "{tmp}/none.json"), "there is no such file"),
    ((*COMPARE[:5], "--annotations", "{images}"), "it is a directory"),
    ((*QUANTIZE, "--prompts", "points"), "needs --annotations"),
    (("segment", "nano", "{tmp}/none.png", "--box", "1,2,3,4"), "there is no such file"),
    # outputs
    ((*QUANTIZE[:-1], "{packed}"), "this file exists; choose another name or add --force"),
    ((*QUANTIZE[:-1], "{tmp}/new.pt"), "ends in .safetensors"),
    ((*QUANTIZE[:-1], "{tmp}/none/new.safetensors"), "there is no directory"),
    ((*FOLDER[:-1], "{detections}"), "is read by this command and would be replaced"),
    ((*SEGMENT, "--box", "1,2,30,40", "--out", "{images}/000002.png"), "this file exists"),
    ((*COMPARE, "--out", "{images}"), "is read by this command and would be replaced"),
    (("demo", "--out", "{images}"), "this directory is not empty"),
    (("demo", "--out", "{annotations}"), "this is a file"),
    # models that cannot be used for this
    (("quantize", "{packed}", *QUANTIZE[2:]), "already quantized"),
    # nothing that could go faster
    ((*QUANTIZE, "--fast"), "'saq-sam-star' takes no learning steps"),
]


def names(cases: list[tuple[tuple[str, ...], str]]) -> list[str]:
    return [" ".join(words) for words, _ in cases]


@pytest.mark.parametrize(("words", "message"), WRONG_USAGE, ids=names(WRONG_USAGE))
def test_wrong_usage_is_one_line_and_exit_code_2(
    saqsam: Saqsam, ground: Ground, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    shown = saqsam(*filled(words, ground, tmp_path))
    assert_one_line(shown, 2, message)
    assert sorted(tmp_path.rglob("*")) == before


BAD_INPUTS = [
    (("inspect", "nanno"), "nanno: no such model. Did you mean 'nano'?"),
    (("inspect", "{tmp}/none.pth"), "none.pth: no such file"),
    (("inspect", "{text}"), "notes.pth: damaged, or not a file of PyTorch weights"),
    (("inspect", "{html}"), "web page"),
    (("inspect", "{images}"), "no config.json"),
    (("quantize", "{html}", *QUANTIZE[2:]), "web page"),
    (("evaluate", "{text}", *EVALUATE[2:]), "notes.pth"),
    (("compare", "nano", "{text}", *COMPARE[3:]), "notes.pth"),
    (("segment", "{html}", *SEGMENT[2:], "--box", "1,2,30,40"), "web page"),
    (("segment", "{text}", *FOLDER[2:]), "notes.pth"),
    (("verify", "{tmp}/none.safetensors"), "none.safetensors: there is no such file"),
    (("verify", "{images}"), "a directory"),
    (
        ("verify", "nano"),
        "nano: is a float model. verify reads packed models: write one with 'saqsam quantize",
    ),
    (("export", "nano", "--out", "{tmp}/new"), "is a float model. export reads packed models"),
    (("export", "{images}", "--out", "{tmp}/new"), "is a directory without a model in it"),
    (("bench", "nano"), "is a float model. bench reads packed models"),
    (("bench", "/dev/null"), "it is a pipe or a device"),
    (
        ("export", "{float}", "--out", "{tmp}/new"),
        "is a file of float weights, not a packed model. export reads",
    ),
    (("inspect", "https://example.org/sam.pth"), "is an address"),
    (("verify", "{text}"), "notes.pth: not an intact packed file"),
    (("evaluate", "nano", *IMAGES, "--annotations", "{detections}"), "is it a detections file?"),
    (("evaluate", "nano", *IMAGES, "--annotations", "{text}"), "notes.pth"),
    ((*EVALUATE, "--prompts", "{annotations}"), "detection 0"),
    ((*EVALUATE, "--prompts", "{html}"), "web page"),
    ((*QUANTIZE, *ANNOTATIONS, "--prompts", "{text}"), "notes.pth"),
    (("segment", "nano", "{text}", "--box", "1,2,30,40"), "notes.pth"),
    (("segment", "nano", "{html}", "--box", "1,2,30,40"), "web page"),
    ((*SEGMENT, "--box", "30,2,1,40"), "is inverted"),
    ((*SEGMENT, "--box", "nan,2,30,40"), "not a finite number"),
    ((*SEGMENT, "--box", "900,900,950,950"), "outside the"),
    ((*SEGMENT, "--point", "900,900"), "outside the"),
    ((*FOLDER[:3], "--detections", "{text}", *FOLDER[5:]), "notes.pth"),
]


@pytest.mark.parametrize(("words", "message"), BAD_INPUTS, ids=names(BAD_INPUTS))
def test_a_bad_input_is_named_in_one_line_with_exit_code_3(
    saqsam: Saqsam, ground: Ground, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    (tmp_path / "notes.pth").write_text("Buy milk.\n")
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html><body>404</body></html>")
    torch.save({"a.weight": torch.ones(2)}, tmp_path / "float.pth")
    before = sorted(tmp_path.rglob("*"))
    shown = saqsam(*filled(words, ground, tmp_path))
    assert_one_line(shown, 3, message)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["models/sam [4 bit].pth", "größe/模型.pth", "[bold]nano[/bold]"])
def test_a_model_is_named_as_it_was_written(saqsam: Saqsam, name: str) -> None:
    shown = saqsam("inspect", name)
    assert_one_line(shown, 3, f"saqsam: {name}: no such")


@pytest.mark.parametrize("name", ["sam [w4a4] (2).safetensors", "größe 模型.safetensors"])
def test_a_model_may_have_any_name(saqsam: Saqsam, ground: Ground, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(ground.packed.read_bytes())
    for words in (
        ("inspect", path),
        ("verify", path),
        ("evaluate", path, "--images", ground.images, "--annotations", ground.annotations, "--limit", "1"),
    ):
        shown = saqsam(*words)
        assert (shown.code, shown.err) == (0, "")
        assert name in "".join(shown.out.split("\n"))


def test_debug_adds_the_traceback_and_keeps_the_code(saqsam: Saqsam) -> None:
    shown = saqsam("--debug", "inspect", "nono")
    assert shown.code == 3
    assert "Traceback (most recent call last)" in shown.err
    assert shown.err.splitlines()[-1].startswith("saqsam: nono: ")


def filled(words: tuple[str, ...], ground: Ground, tmp_path: Path) -> list[str]:
    """The words with their files."""
    files = {
        "{images}": ground.images,
        "{annotations}": ground.annotations,
        "{detections}": ground.detections,
        "{packed}": ground.packed,
        "{text}": tmp_path / "notes.pth",
        "{html}": tmp_path / "page.pth",
        "{tmp}": tmp_path,
        "{float}": tmp_path / "float.pth",
    }
    result = []
    for word in words:
        for placeholder, path in files.items():
            word = word.replace(placeholder, str(path))
        result.append(word)
    return result


def assert_one_line(shown: object, code: int, message: str) -> None:
    assert shown.code == code, shown
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert shown.err.startswith("saqsam: ")
    assert message in shown.err


def test_python_dash_m_is_the_command(command: str) -> None:
    answers = [
        subprocess.run([*words, "--version"], capture_output=True, text=True, check=True).stdout
        for words in ([command], [sys.executable, "-m", "saqsam"])
    ]
    assert answers[0] == answers[1]
    assert answers[0].splitlines()[0] == f"saqsam {saqsam.__version__}"
    assert answers[0].splitlines()[1].startswith("native kernels: ")


def test_a_current_folder_that_was_deleted_is_told(
    saqsam: Saqsam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    shown = saqsam("recipe", "list")
    assert shown.code == 2
    assert shown.err == "saqsam: the current folder was deleted; give this from a folder that exists\n"
