"""Packed files: what goes in comes out, in any process and for any reader; sizes; determinism."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from transformers import SamModel

import saqsam.pack
from saqsam.api import load
from saqsam.errors import InvariantError, UsageError
from saqsam.pack.container import locate_sections, parse_header
from saqsam.pack.file import (
    PackedActivation,
    PackedModel,
    PackedWeight,
    is_packed,
    read_packed,
    write_packed,
)

FORMAT = Path(saqsam.pack.__file__).parent / "FORMAT.md"
GOLDEN = "d79dd80e2f67bb3a61f6b265ec046b960e3a8ec0952f129440d3d6998d26f870"  # of the example in FORMAT.md
READER = Path(__file__).parent / "independent_reader.py"


def weight(shape: tuple[int, ...], bits: int, seed: int = 0) -> PackedWeight:
    """Random codes on random grids."""
    draw = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 2**bits, shape, generator=draw).to(torch.uint8)
    zero_point = torch.randint(0, 2**bits, shape[:1], generator=draw).to(torch.uint8)
    return PackedWeight(codes, torch.rand(shape[0], generator=draw) + 1e-3, zero_point, bits)


def example() -> PackedModel:
    """The model of FORMAT.md, section 7."""
    codes = torch.tensor([[0, 5, 7], [1, 2, 6]], dtype=torch.uint8)
    zero_point = torch.tensor([4, 1], dtype=torch.uint8)
    return PackedModel(
        config={"model_type": "sam"},
        recipe={"name": "example"},
        weights={"head": PackedWeight(codes, torch.tensor([0.5, 0.25]), zero_point, 3)},
        activations={
            "head:input": PackedActivation("affine", 4, 0.125, 8, 0),
            "head:attention": PackedActivation("log2", 4, 1.0, 0, 2),
        },
        rest={
            "norm.bias": torch.tensor([[0.75]]),
            "head.bias": torch.tensor([1.0, -2.0], dtype=torch.float16),
        },
        records={},
    )


def packed_sam(model: SamModel, bits: int, dtype: torch.dtype = torch.float16) -> PackedModel:
    """A SAM with all its linear layers at random codes of ``bits`` bits."""
    rest = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    weights, activations = {}, {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            weights[name] = weight(tuple(rest.pop(f"{name}.weight").shape), bits, seed=len(weights))
            activations[f"{name}:input"] = PackedActivation("affine", bits, 0.5 / (1 + len(weights)), 1, 0)
    activations = {
        site: PackedActivation("affine", bits, float(np.float32(grid.scale)), grid.zero_point, 0)
        for site, grid in activations.items()
    }
    records = {"sites": [{"path": site, "bits": bits, "min": -0.5, "max": 1.25} for site in activations]}
    return PackedModel(model.config.to_dict(), {"name": "test"}, weights, activations, rest, records)


def fingerprint(packed: PackedModel) -> str:
    """A hash of every value, order-independent, through plain Python and numpy."""
    digest = hashlib.sha256()
    for name, quantized in sorted(packed.weights.items()):
        digest.update(f"{name} {quantized.bits} {tuple(quantized.codes.shape)}".encode())
        for part in (quantized.codes, quantized.scale, quantized.zero_point):
            digest.update(f"{part.dtype}".encode() + part.numpy().tobytes())
    for name, tensor in sorted(packed.rest.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
    digest.update(repr(sorted(packed.activations.items())).encode())
    plain = json.loads(json.dumps([packed.config, packed.recipe, packed.records]))
    return hashlib.sha256(digest.digest() + json.dumps(plain, sort_keys=True).encode()).hexdigest()


def in_fresh_process(code: str, *arguments: object, **environment: str) -> str:
    """Standard output of a new interpreter."""
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    run = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    return run.stdout.strip()


def documented_example() -> tuple[bytes, str]:
    """The bytes of the example printed in FORMAT.md, and its manifest's JSON."""
    text = FORMAT.read_text(encoding="utf-8")
    length = bytes.fromhex(re.search(r"^    ((?:[0-9a-f]{2} ){7}[0-9a-f]{2})$", text, re.M).group(1))
    header, manifest = (block.replace("\n", "") for block in re.findall(r"```json\n(.*?)```", text, re.S))
    spaces = int(re.search(r"(\d+) spaces at its end", text).group(1))
    rows = re.search(r"```text\n(.*?)```", text, re.S).group(1).splitlines()
    data = bytes.fromhex("".join(row[23:] for row in rows))
    return length + header.encode() + b" " * spaces + data, manifest


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_whole_sam_round_trips(tmp_path: Path, tiny_sam: SamModel, bits: int, dtype: torch.dtype) -> None:
    packed = packed_sam(tiny_sam, bits, dtype)
    path = tmp_path / "sam.safetensors"
    write_packed(path, packed)
    assert is_packed(path)
    back = read_packed(path)
    assert fingerprint(back) == fingerprint(packed)
    assert back.config["vision_config"]["hidden_size"] == 48
    for quantized in back.weights.values():
        quantized.scale.mul_(2)  # owned by the caller: writable, not a view of the file


names = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=12).filter(
    lambda name: not {"/", "\\"} & set(name) and ".." not in f"{name}.bias"
)
plain = st.dictionaries(
    st.text(max_size=5), st.none() | st.integers() | st.text() | st.lists(st.booleans()), max_size=4
)
shapes = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)


@st.composite
def models(draw: st.DrawFn) -> PackedModel:
    """Any lawful contents, names in any script, tensors of any shape."""
    some = st.integers(0, 3)
    grid = st.integers(2, 8).flatmap(
        lambda bits: st.builds(
            PackedActivation,
            st.just("affine"),
            st.just(bits),
            st.floats(2.0**-100, 2.0**100, width=32),
            st.integers(0, 2**bits - 1),
            st.just(0),
        )
    )
    rest_shapes = st.lists(st.integers(0, 3), max_size=4)
    values = st.floats(-1000, 1000, width=16)
    dtypes = st.sampled_from([torch.float16, torch.float32])
    return PackedModel(
        config=draw(plain),
        recipe=draw(plain),
        weights={
            draw(names): weight(draw(shapes), draw(st.integers(2, 8)), seed) for seed in range(draw(some))
        },
        activations=draw(st.dictionaries(names, grid, max_size=3)),
        rest={
            f"{draw(names)}.bias": torch.full(draw(rest_shapes), draw(values)).to(draw(dtypes))
            for _ in range(draw(some))
        },
        records=draw(plain),
    )


@given(models())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_contents_round_trip_to_equal_bytes(tmp_path: Path, packed: PackedModel) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    write_packed(first, packed)
    back = read_packed(first)
    assert fingerprint(back) == fingerprint(packed)
    write_packed(second, back)
    assert first.read_bytes() == second.read_bytes()


def test_the_order_of_dictionaries_does_not_matter(tmp_path: Path, tiny_sam: SamModel) -> None:
    packed = packed_sam(tiny_sam, 4)

    def shuffled(mapping: dict[str, object]) -> dict[str, object]:
        return dict(random.Random(0).sample(sorted(mapping.items()), len(mapping)))

    parts = {name: shuffled(getattr(packed, name)) for name in PackedModel.__dataclass_fields__}
    write_packed(tmp_path / "a", packed)
    write_packed(tmp_path / "b", PackedModel(**parts))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_fresh_process_reads_the_same_and_writes_the_same(tmp_path: Path, tiny_sam: SamModel) -> None:
    packed = packed_sam(tiny_sam, 3)
    path, again = tmp_path / "sam.safetensors", tmp_path / "again.safetensors"
    write_packed(path, packed)
    code = """if True:
        import sys
        from saqsam.pack.file import read_packed, write_packed
        packed = read_packed(sys.argv[1])
        write_packed(sys.argv[2], packed)
        print(sum(int(weight.codes.sum()) for weight in packed.weights.values()))
    """
    total = in_fresh_process(code, path, again, PYTHONHASHSEED="123", LC_ALL="C", TZ="Asia/Tokyo")
    assert int(total) == sum(int(quantized.codes.sum()) for quantized in packed.weights.values())
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_an_independent_reader_finds_the_same_values(tmp_path: Path, tiny_sam: SamModel, bits: int) -> None:
    packed = packed_sam(tiny_sam, bits, torch.float16 if bits < 4 else torch.float32)
    write_packed(tmp_path / "packed", packed)
    subprocess.run(
        [sys.executable, str(READER), str(tmp_path / "packed"), str(tmp_path / "out.npz")], check=True
    )
    with np.load(tmp_path / "out.npz") as found:
        contents = json.loads(str(found["manifest"]))
        names = set(found.files) - {"manifest"}
        assert names == {f"{name}.weight" for name in packed.weights} | set(packed.rest)
        for name, quantized in packed.weights.items():
            column = (-1,) + (1,) * (quantized.codes.ndim - 1)
            steps = quantized.codes.float() - quantized.zero_point.float().view(column)
            values = quantized.scale.view(column) * steps
            assert np.array_equal(found[f"{name}.weight"], values.numpy())
        for name, tensor in packed.rest.items():
            assert found[name].dtype == tensor.numpy().dtype
            assert np.array_equal(found[name], tensor.numpy())
    grids = {
        name: PackedActivation(grid, width, scale, zero, tau)
        for name, grid, width, zero, tau, scale in contents["activations"]
    }
    assert grids == packed.activations
    assert contents["records"] == packed.records


def test_the_safetensors_library_reads_the_file(tmp_path: Path) -> None:
    write_packed(tmp_path / "packed", example())
    with safe_open(tmp_path / "packed", framework="pt") as opened:
        assert opened.metadata()["format"] == "saqsam-packed"
        assert opened.get_tensor("scales").tolist() == [0.5, 0.25]
        assert opened.get_tensor("codes").tolist() == [0xE8, 0x23, 0x03]
        assert opened.get_tensor("rest_f16").tolist() == [1.0, -2.0]


def test_the_example_of_the_document_is_read(tmp_path: Path) -> None:
    raw, manifest = documented_example()
    assert len(raw) == 1044
    (tmp_path / "documented").write_bytes(raw)
    assert fingerprint(read_packed(tmp_path / "documented")) == fingerprint(example())
    header = parse_header(raw)
    compressed = raw[locate_sections(header, len(raw))["manifest"]]
    assert zlib.decompress(compressed).decode() == manifest


def test_golden_bytes(tmp_path: Path) -> None:
    """What is written today is what the document, itself pinned, shows: section by section.

    Left out are the parts that depend on the writer's version and on how zlib compresses: the header, the
    compressed form of the manifest, its digest, and the seal.
    """
    documented, _ = documented_example()
    assert hashlib.sha256(documented).hexdigest() == GOLDEN
    write_packed(tmp_path / "packed", example())
    written = (tmp_path / "packed").read_bytes()
    assert comparable(written) == comparable(documented)


def comparable(raw: bytes) -> dict[str, bytes]:
    """The sections that must never change while the version of the format is 1."""
    places = locate_sections(parse_header(raw), len(raw))
    parts = {name: raw[place] for name, place in places.items() if name != "seal"}
    return {
        **parts,
        "manifest": zlib.decompress(parts["manifest"]),
        "digests": parts["digests"][:-32],
    }


@pytest.mark.parametrize("bits", range(2, 9))
def test_weights_take_exactly_their_bits_and_the_container_little(
    tmp_path: Path, tiny_sam: SamModel, bits: int
) -> None:
    packed = packed_sam(tiny_sam, bits)
    write_packed(tmp_path / "packed", packed)
    raw = (tmp_path / "packed").read_bytes()
    places = locate_sections(parse_header(raw), len(raw))
    size = {name: place.stop - place.start for name, place in places.items()}
    assert size["codes"] == sum(-(-one.codes.numel() * bits // 8) for one in packed.weights.values())
    channels = sum(one.codes.shape[0] for one in packed.weights.values())
    assert size["scales"] == 4 * channels
    assert size["zero_points"] <= channels * bits / 8 + len(packed.weights)
    assert size["rest_f16"] == 2 * sum(tensor.numel() for tensor in packed.rest.values())
    # One SHA-256 for each tensor is incompressible; names, shapes and site records are not.
    container = len(raw) - sum(size[name] for name in size if name not in ("manifest", "digests", "seal"))
    assert container < 32 * (len(packed.weights) + len(packed.rest)) + 6000


def test_is_packed_tells_kinds_apart(tmp_path: Path) -> None:
    write_packed(tmp_path / "packed", example())
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "page").write_bytes(b"<!DOCTYPE html><html></html>")
    assert is_packed(tmp_path / "packed")
    assert is_packed(str(tmp_path / "packed"))
    for name in ("empty", "page", "missing", "."):
        assert not is_packed(tmp_path / name)


Change = Callable[[PackedModel], object]


@pytest.mark.parametrize(
    ("change", "site", "message"),
    [
        (lambda m: m.weights["head"].codes.fill_(8), "head", "does not fit into 3 bits"),
        (lambda m: m.weights["head"].zero_point.fill_(8), "head", "does not fit into 3 bits"),
        (lambda m: m.weights["head"].scale.fill_(0), "head", "not finite and positive"),
        (lambda m: m.weights["head"].scale.fill_(float("nan")), "head", "not finite and positive"),
        (lambda m: m.weights.update(head=weight((2, 3), 9)), "head", "bits are 2 to 8"),
        (lambda m: m.weights.update(head=weight((2, 0), 4)), "head", "at least one element"),
        (
            lambda m: m.weights.update(
                head=PackedWeight(torch.zeros(2, 3), torch.ones(2), torch.zeros(2, dtype=torch.uint8), 4)
            ),
            "head",
            "must be uint8",
        ),
        (lambda m: m.rest["norm.bias"].fill_(float("inf")), "norm.bias", "NaN or infinity"),
        (lambda m: m.rest.update(half=torch.zeros(2, dtype=torch.bfloat16)), "half", "not torch.bfloat16"),
        (lambda m: m.rest.update({"head.weight": torch.zeros(2)}), "head.weight", "both"),
        (
            lambda m: m.activations.update(act=PackedActivation("affine", 4, 0.1, 0, 0)),
            "act",
            "no float32 number",
        ),
        (lambda m: m.activations.update(act=PackedActivation("affine", 4, 0.5, 16, 0)), "act", "zero point"),
        (lambda m: m.activations.update(act=PackedActivation("log2", 4, 0.5, 0, 0)), "act", "tau 0"),
        (lambda m: m.activations.update(act=PackedActivation("affine", 4, -0.5, 0, 0)), "act", "positive"),
        (lambda m: m.records.update(loss=float("nan")), "records", "plain JSON"),
        (lambda m: m.recipe.update(path=Path("x")), "recipe", "plain JSON"),
        (lambda m: m.records.update(log="x" * (1 << 22)), "records", "more than the limit"),
    ],
)
def test_what_would_not_come_back_is_not_written(
    tmp_path: Path, change: Change, site: str, message: str
) -> None:
    packed = example()
    change(packed)
    with pytest.raises(InvariantError, match=message) as caught:
        write_packed(tmp_path / "packed", packed)
    assert caught.value.site == site
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "packed"
    write_packed(path, example())
    before = path.read_bytes()
    broken = example()
    broken.weights["head"].scale.fill_(-1)
    with pytest.raises(InvariantError):
        write_packed(path, broken)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["packed"]


def test_a_folder_that_does_not_exist_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none/packed: its folder does not exist; create it first"):
        write_packed(tmp_path / "none" / "packed", example())


@pytest.mark.parametrize("source", [3, None, b"nano", ["nano"]])
def test_what_is_no_path_is_told(source: Any) -> None:
    with pytest.raises(UsageError, match="expected a path or a name, got"):
        load(source)
