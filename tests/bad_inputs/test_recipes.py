"""Recipes from strangers: each fault has its message, and none can hang or hurt the process."""

from __future__ import annotations

import contextlib
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saqsam.errors import RecipeError
from saqsam.recipe import Recipe, load_recipe
from saqsam.recipe.strict_yaml import parse_yaml

DOUBLING = "\n".join(
    ["name: x", "a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
)
"""Nine levels of nine aliases: 81 aliases in all, 9^9 values if written out."""

FAULTS = {
    "unknown key": ("name: x\nclipp: {}", r"clipp: unknown key; did you mean 'clip'\?"),
    "unknown nested key": (
        "name: x\nclip: {focus_treshold: 0.5}",
        r"clip\.focus_treshold: unknown key; did you mean 'focus_threshold'\?",
    ),
    "far from any key": ("name: x\nzzz: 1", r"zzz: unknown key; known keys: name, description, encoder"),
    "missing name": ("clip: {method: pcc}", r"name: this key is required"),
    "blank name": ("name: ' '", r"name: expected 1 to 80 characters"),
    "text for number": (
        "name: x\nclip: {sweeps: two}",
        r"clip\.sweeps: expected integer, 1 to 10, found 'two'",
    ),
    "number for text": ("name: 3", r"name: expected text, found 3"),
    "number for switch": (
        "name: x\nfolds: {key_centring: 1}",
        r"folds\.key_centring: expected true or false, found 1",
    ),
    "switch for number": (
        "name: x\nencoder: {weights: yes}",
        r"encoder\.weights: expected integer, 2 to 8, found True",
    ),
    "fraction for integer": ("name: x\nencoder: {weights: 4.5}", r"encoder\.weights: expected integer"),
    "list for section": ("name: x\nclip: [1]", r"clip: expected a mapping of keys, found a list"),
    "nothing for section": ("name: x\nclip:", r"clip: expected a mapping of keys, found nothing"),
    "unknown choice": (
        "name: x\nattention_grid: log3",
        r"attention_grid: 'log3' is not one of affine, log2",
    ),
    "0 bits": ("name: x\nencoder: {weights: 0}", r"encoder\.weights: 0 is outside 2 to 8"),
    "1 bit": ("name: x\ndecoder: {activations: 1}", r"decoder\.activations: 1 is outside 2 to 8"),
    "9 bits": ("name: x\nencoder: {weights: 9}", r"encoder\.weights: 9 is outside 2 to 8"),
    "huge integer": (
        "name: x\nencoder: {weights: " + "9" * 400 + "}",
        r"encoder\.weights: 9{57}\.\.\. is outside 2 to 8",
    ),
    "integer past Python's limit": (
        "name: x\nencoder: {weights: " + "9" * 5000 + "}",
        r"not valid YAML \(Exceeds the limit",
    ),
    "infinity": ("name: x\nweight_ranges: {norm: .inf}", r"weight_ranges\.norm: inf is outside 0\.5 to 8\.0"),
    "not a number": ("name: x\nweight_ranges: {norm: .nan}", r"weight_ranges\.norm: nan is outside"),
    "a date": ("name: 2026-01-01", r"name: expected text, found datetime\.date"),
    "empty percentiles": (
        "name: x\nclip: {percentiles: []}",
        r"clip\.percentiles: expected a list of at least",
    ),
    "descending percentiles": (
        "name: x\nclip: {percentiles: [0.99, 0.9]}",
        r"clip\.percentiles: values must ascend",
    ),
    "percentile outside": (
        "name: x\nclip: {percentiles: [0.9, 1.5]}",
        r"clip\.percentiles\[1\]: 1\.5 is outside 0\.5 to 1",
    ),
    "override contradicts itself": (
        "name: x\noverrides: {'*': {keep_float: true, bits: 8}}",
        r"keep_float leaves a site unquantized; drop its bits",
    ),
    "override bits": ("name: x\noverrides: {'a.*': {bits: 32}}", r"overrides\.a\.\*\.bits: 32 is outside"),
    "control characters": ('name: "a\\u0007"', r"name: expected one line of at most 1000 printable"),
    "python object": (
        "name: !!python/object/apply:os.system ['touch canary']",
        r"line 1: tag 'tag:yaml\.org,2002:python/object/apply:os\.system' refused; a recipe is plain data",
    ),
    "private tag": ("name: !secret x", r"tag '!secret' refused"),
    "innocent tag": ("name: !!str 5", r"tag 'tag:yaml\.org,2002:str' refused"),
    "same key twice": ("name: x\nname: y", r"line 2: key 'name' appears twice"),
    "same nested key twice": (
        "name: x\nclip:\n  sweeps: 1\n  sweeps: 2",
        r"line 4: key 'sweeps' appears twice",
    ),
    "merge key": ("name: x\na: &a {}\nclip:\n  <<: *a", r"line 4: merge keys \('<<'\) are not used"),
    "tab": ("name: x\nclip:\n\tsweeps: 1", r"line 3: indented with a tab; YAML wants spaces"),
    "list at the top": ("- name: x", r"a recipe is a mapping of keys, found a list"),
    "empty text": ("", r"a recipe is a mapping of keys, found nothing"),
    "two documents": ("name: x\n---\nname: y", r"line 2: but found another document"),
    "unclosed bracket": ("name: [x", r"line 1: expected ',' or '\]', but got '<stream end>'"),
    "unknown alias": ("name: *nobody", r"line 1: found undefined alias 'nobody'"),
    "self-containing list": ("name: &a [*a]", r"found unconstructable recursive node"),
    "list as key": ("? [a]\n: 1", r"a key must be a single word"),
    "NUL byte": ("name: a\0b", r"not valid YAML"),
    "101 aliases": (
        "a: &a x\nb: [" + ", ".join(["*a"] * 101) + "]",
        r"line 2: more than 100 aliases; write the values out",
    ),
    "doubling aliases": (DOUBLING, r"a0: unknown key"),
    "doubling aliases as a value": (
        DOUBLING.replace("a8:", "clip:"),
        r"a0: unknown key|clip: expected a mapping of keys, found a list",
    ),
    "deep nesting": ("name: " + "[" * 100_000, r"line 1: nested deeper than 16 levels"),
    "many values": ("clip: {percentiles: [" + "1," * 30_000 + "]}", r"more than 20000 values"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_its_message_and_little_memory(fault: str, tmp_path: Path) -> None:
    text, message = FAULTS[fault]
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    tracemalloc.start()
    try:
        with pytest.raises(RecipeError, match=message) as caught:
            load_recipe(path)
        assert tracemalloc.get_traced_memory()[1] < 64e6, "a small file took much memory"
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(path))
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == [path], "nothing was executed or written"


def test_a_file_of_ten_megabytes_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    path.write_text("# " + "x" * 10_000_000)
    with pytest.raises(RecipeError, match=r"big\.yaml: larger than 1 MB, so this is not a recipe"):
        load_recipe(path)


def test_bytes_that_are_not_text(tmp_path: Path) -> None:
    path = tmp_path / "weights.yaml"
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(RecipeError, match=r"weights\.yaml: byte 6 is not UTF-8 text"):
        load_recipe(path)


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"absent\.yaml: cannot be read \(No such file or directory\)"):
        load_recipe(tmp_path / "absent.yaml")
    with pytest.raises(RecipeError, match=r"cannot be read \(Is a directory\)"):
        load_recipe(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("saq-sam-sta", r"no recipe 'saq-sam-sta'; did you mean 'saq-sam-star'\?"),
        ("zzzzz", r"no recipe 'zzzzz'; shipped recipes: rtn, percentile, mse, .*, saq-sam-star, "),
        ("mse-w9a4", r"bits 'w9a4': 9 weight bits are outside 2 to 8"),
        ("mse-w4a1", r"bits 'w4a1': 1 activation bits are outside 2 to 8"),
        ("ms-w4a4", r"no recipe 'ms-w4a4'; did you mean 'mse'\?"),
    ],
)
def test_names_that_do_not_exist(name: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(name)


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        ("4", r"bits '4': expected the form w4a4"),
        ("w0a4", r"bits 'w0a4': 0 weight bits are outside 2 to 8"),
        ("w4a9", r"bits 'w4a9': 9 activation bits are outside 2 to 8"),
        ("w4a4x", r"bits 'w4a4x': expected the form w4a4"),
    ],
)
def test_bits_that_cannot_be(bits: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe("mse", bits=bits)


def test_two_different_widths_are_not_guessed_between() -> None:
    with pytest.raises(RecipeError, match=r"recipe 'mse-w4a4' asks for w4a4 and bits for w6a6; give one"):
        load_recipe("mse-w4a4", bits="w6a6")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "clip.focus_treshold=1",
            r"setting 'clip\.focus_treshold': unknown key; did you mean 'focus_threshold'",
        ),
        ("clip", r"setting 'clip': expected key=value, such as clip\.focus_threshold=0\.6"),
        ("=3", r"setting '=3': expected key=value"),
        ("clip=pcc", r"setting 'clip': this is a section; set one of clip\.method, clip\.focus_threshold"),
        ("clip.method.x=1", r"setting 'clip\.method\.x': 'method' has no keys of its own"),
        ("clip.sweeps=", r"clip\.sweeps: expected integer, 1 to 10, found nothing"),
        ("clip.sweeps=many", r"clip\.sweeps: expected integer, 1 to 10, found 'many'"),
        ("clip.sweeps=11", r"clip\.sweeps: 11 is outside 1 to 10"),
        ("clip.sweeps=!!int 3", r"setting 'clip\.sweeps', line 1: tag .* refused"),
        ("clip.method=pc", r"clip\.method: 'pc' is not one of none, pcc"),
        ("encoder.weights=9", r"encoder\.weights: 9 is outside 2 to 8"),
        ("overrides.bits=3", r"expected overrides\.<pattern>\.<key> with one of the keys bits, grid"),
        ("overrides=3", r"expected overrides\.<pattern>\.<key>"),
        ("overrides.a.b.bits=9", r"overrides\.a\.b\.bits: 9 is outside 2 to 8"),
    ],
)
def test_settings_that_cannot_be(setting: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe("saq-sam-star", settings=[setting])


@given(st.text(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_recipe_or_a_recipe_error(text: str) -> None:
    with contextlib.suppress(RecipeError):
        Recipe.from_yaml(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(["name", "clip", "encoder", "weights", "overrides", "percentiles", "bits"])
                | st.text(max_size=4),
                inner,
                max_size=5,
            )
        ),
        max_leaves=20,
    )
)
@settings(max_examples=300, deadline=None)
def test_any_plain_data_is_a_recipe_or_a_recipe_error(data: object) -> None:
    with contextlib.suppress(RecipeError):
        Recipe.from_dict(data)


def test_aliases_below_the_limit_are_plain_yaml() -> None:
    data = parse_yaml("name: x\nencoder: &b {weights: 3}\ndecoder: *b", "here")
    assert Recipe.from_dict(data).encoder == Recipe.from_dict(data).decoder
