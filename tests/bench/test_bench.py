"""``saqsam bench`` on nano: every engine runs in its own process and agrees with the simulation."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from saqsam.bench.bench import bench
from saqsam.bench.measure import measure
from saqsam.bench.openvino import openvino_problem
from saqsam.bench.rows import ROWS, build_row, float_contents, row_problem
from saqsam.cli.app import run
from saqsam.errors import SaqsamError, UsageError
from saqsam.pack.file import read_packed


@pytest.fixture(scope="session")
def packed(packed_nano: Callable[[str], Path]) -> Path:
    return packed_nano("rtn-w8a8")


@pytest.mark.slow
def test_rows_have_speed_memory_size_and_agreement(
    packed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["bench", str(packed), "--rounds", "1", "--json", "--out", str(tmp_path / "bench.csv")]
    for row in ("simulated", "integer"):
        arguments += ["--row", row]
    assert run(arguments) == 0
    rows = {row["row"]: row for row in json.loads(capfd.readouterr().out)["rows"]}
    assert rows["simulated"]["agreement"] == 1.0
    assert rows["integer"]["agreement"] > 0.97
    assert rows["integer"]["model_bytes"] == packed.stat().st_size
    assert all(row["encoder_seconds"] > 0 and row["peak_bytes"] > 1e7 for row in rows.values())
    with (tmp_path / "bench.csv").open() as file:
        assert [row["row"] for row in csv.DictReader(file)] == list(rows)


def test_float_rows_are_the_dequantized_weights(packed: Path) -> None:
    """Each is another way of running the same float model, so they agree with each other."""
    _, expected = measure("torch float", packed, 1)
    for row, least in (("onnxruntime float", 0.9999), ("onnxruntime dynamic int8", 0.98)):
        figures, masks = measure(row, packed, 1)
        assert len(figures["prompts"]) == 1
        assert (masks[0] == expected[0]).mean() > least, row


def test_what_cannot_be_benched_is_said(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a packed file"):
        bench(tmp_path / "nothing")
    with pytest.raises(UsageError, match="the rows are torch float, simulated"):
        bench(packed, ["tensorrt"])
    with pytest.raises(UsageError, match="the rows are"):
        build_row("tensorrt", packed)
    assert "integer" in ROWS
    damaged = tmp_path / "damaged"
    content = bytearray(packed.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(SaqsamError, match="not an intact packed file"):
        bench(damaged, ["integer"], rounds=1)
    assert run(["bench", str(tmp_path / "nothing")]) == 3


def test_openvino_is_a_row_where_it_is_installed(packed: Path) -> None:
    problem = row_problem("openvino int8", read_packed(packed), packed)
    assert problem == openvino_problem()
    if problem:
        assert problem.endswith("pip install openvino")
        with pytest.raises(UsageError, match="OpenVINO is not installed"):
            build_row("openvino float", packed)
    else:
        _, masks = measure("openvino float", packed, 1)
        _, expected = measure("torch float", packed, 1)
        assert (masks[0] == expected[0]).mean() > 0.9999


def test_float_contents_have_no_integers_left(packed: Path) -> None:
    contents = read_packed(packed)
    assert float_contents(contents).weights == {}
    assert len(float_contents(contents).rest) == len(contents.rest) + len(contents.weights)


def test_peak_memory_is_the_process_own_and_not_inherited() -> None:
    parent = (
        "import subprocess, sys\n"
        "block = bytearray(200_000_000)\n"
        "sys.stdout.write(subprocess.check_output([sys.executable, '-c', sys.argv[1]], text=True))\n"
    )
    child = "from saqsam.bench.peak import peak_bytes; import sys; sys.stdout.write(str(peak_bytes()))"
    alone, below = (
        int(subprocess.check_output([sys.executable, "-c", *words], text=True))
        for words in ([child], [parent, child])
    )
    assert below < alone + 50_000_000
