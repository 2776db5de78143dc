"""saqsam beside other quantizers: the same float model, calibration scenes, test scenes and metric.

    python benchmarks/peers.py                          # every row, three draws of calibration scenes
    python benchmarks/peers.py --rows "onnxruntime*" --seeds 1

Peers are optional: ``pip install onnx onnxruntime openvino nncf optimum-quanto``; rows of one that is not
installed are skipped, which a line says. Rows in the CSV are not measured again. Every model is evaluated as
it would be deployed: ONNX Runtime and OpenVINO compute with their own integer kernels.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.metadata
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peer_models as peers
import torch
from rows import Rows, spread

from saqsam import api
from saqsam.datasets.coco import read_instances
from saqsam.prompts.from_dataset import prompts_for
from saqsam.recipe import load_recipe
from saqsam.sam import Sam
from saqsam.scenes import write_scenes
from saqsam.tasks.instance import image_figures, summary

TEST_SEED, CALIBRATION_SEED = 880_001, 880_100
FIRST = 60
"""As many scenes as in the other tables; figures of all scenes are less noisy."""

Builder = Callable[[peers.Calibration], peers.Built]


@dataclass(frozen=True)
class Row:
    """One way of quantizing.

    Attributes:
        name: of the row.
        needs: distributions that must be installed.
        weights: bits of quantized weights.
        activations: bits of quantized activations.
        what: which tensors those are.
        build: makes the model.
        seeded: whether calibration scenes matter to it.
    """

    name: str
    needs: tuple[str, ...]
    weights: str
    activations: str
    what: str
    build: Builder
    seeded: bool = True


def ours(recipe: str, engine: str) -> Builder:
    """A recipe of saqsam, packed to a file, loaded again."""

    def build(given: peers.Calibration) -> peers.Built:
        file = given.directory / f"{recipe}.saqsam"
        if not file.exists():
            scenes = given.directory / "scenes"
            packed = api.quantize(
                Sam(given.model, "nano"),
                load_recipe(recipe),
                scenes / "images",
                scenes / "instances.json",
            )
            packed.save(file)
        return api.load(file, engine=engine).model, file.stat().st_size

    return build


def floats(given: peers.Calibration) -> peers.Built:
    """The float model."""
    return given.model, sum(4 * parameter.numel() for parameter in given.model.parameters())


_SAME = "products of the encoder's blocks, its neck and the decoder's transformer"
_LINEAR = "linear layers of the encoder and the decoder's transformer"
_OV = ("openvino", "nncf")
_ORT = ("onnx", "onnxruntime")


def _own() -> Iterator[Row]:
    star = [f"saq-sam-star-{bits}" for bits in ("w8a8", "w4a8", "w4a4")]
    for recipe in (*star, "saq-sam-fast-w4a4", "best-w4a8", "best-w4a4"):
        weights, activations = recipe[-3], recipe[-1]
        for engine in ("torch", "onnxruntime"):
            needs = () if engine == "torch" else _ORT
            name = f"saqsam {recipe}, {engine}"
            yield Row(name, needs, weights, activations, _SAME, ours(recipe, engine))


def _static() -> Iterator[Row]:
    for method in ("MinMax", "Entropy", "Percentile"):
        build = peers.onnxruntime_static(method)
        yield Row(f"onnxruntime static {method}, same layers", _ORT, "8", "8", _SAME, build)
    build = peers.onnxruntime_static("MinMax", everything=True)
    yield Row("onnxruntime static MinMax, default", _ORT, "8", "8", "all operators it can", build)


ROWS = (
    Row("float, torch", (), "32", "32", "nothing", floats, False),
    Row("float, onnxruntime", _ORT, "32", "32", "nothing", peers.onnxruntime_float, False),
    Row("float, openvino", _OV, "32", "32", "nothing", peers.openvino_float, False),
    *_own(),
    Row("onnxruntime dynamic", _ORT, "8", "8", _LINEAR, peers.onnxruntime_dynamic, False),
    *_static(),
    Row("nncf int8, same layers", _OV, "8", "8", _SAME, peers.openvino_int8(everything=False)),
    Row("nncf int8, default", _OV, "8", "8", "all operators it can", peers.openvino_int8(everything=True)),
    Row("nncf weights int8", _OV, "8", "32", "all layers", peers.openvino_weights("INT8_ASYM", -1), False),
    Row(
        "nncf weights int4, groups of 32",
        _OV,
        "4",
        "32",
        "all layers",
        peers.openvino_weights("INT4_ASYM", 32),
        False,
    ),
    Row(
        "nncf weights int4, per channel",
        _OV,
        "4",
        "32",
        "all layers",
        peers.openvino_weights("INT4_ASYM", -1),
        False,
    ),
    Row("quanto int8", ("optimum-quanto",), "8", "8", "all layers it can", peers.quanto("qint8", "qint8")),
    Row(
        "quanto weights int8",
        ("optimum-quanto",),
        "8",
        "32",
        "all layers it can",
        peers.quanto("qint8"),
        False,
    ),
    Row(
        "quanto int4, activations int8",
        ("optimum-quanto",),
        "4",
        "8",
        "all layers it can",
        peers.quanto("qint4", "qint8"),
    ),
    Row(
        "quanto weights int4",
        ("optimum-quanto",),
        "4",
        "32",
        "all layers it can",
        peers.quanto("qint4"),
        False,
    ),
)


def version(distribution: str) -> str | None:
    """Of an installed distribution."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def chosen(patterns: list[str]) -> Iterator[Row]:
    """Rows asked for whose peers are installed; says which are not."""
    for row in ROWS:
        if any(fnmatch.fnmatch(row.name, pattern) for pattern in patterns):
            missing = [name for name in row.needs if version(name) is None]
            if missing:
                print(f"{row.name}: skipped, {' and '.join(missing)} not installed", flush=True)
            else:
                yield row


def runs(options: argparse.Namespace, kept: Rows, scratch: Path) -> Iterator[dict[str, Any]]:
    """New rows as they are measured."""
    truth = write_scenes(scratch / "test", options.images, TEST_SEED)
    test = read_instances(truth, scratch / "test" / "images")
    model = api.load("nano").model
    rows = list(chosen(options.rows))
    for seed in range(options.seeds):
        directory = scratch / str(seed)
        annotations = write_scenes(directory / "scenes", 32, CALIBRATION_SEED + seed)
        images = api.calibration_images(
            load_recipe("saq-sam-star-w8a8"), directory / "scenes" / "images", annotations
        )
        given = peers.Calibration(model, images, directory)
        for row in rows if seed == 0 else [row for row in rows if row.seeded]:
            versions = " ".join(f"{name} {version(name)}" for name in ("torch", *row.needs))
            head = {"row": row.name, "seed": seed, "scenes": options.images, "versions": versions}
            if kept.has(head):
                continue
            start = time.process_time()
            try:
                built, size = row.build(given)
                seconds = round(time.process_time() - start, 1)
                found = figures(Sam(built, row.name), test)
            except Exception as error:  # noqa: BLE001 - another project's failure is its row's result
                print(
                    f"{row.name}: failed, {type(error).__name__}: {str(error).splitlines()[0][:200]}",
                    flush=True,
                )
                continue
            about = {"weights": row.weights, "activations": row.activations, "quantized": row.what}
            yield {**head, **about, "bytes": size, "build_cpu_seconds": seconds, **found}


@torch.no_grad()
def figures(sam: Sam, test: Any) -> dict[str, Any]:
    """AP and mIoU of the first scenes and of all."""
    prompts = prompts_for(test, "boxes")
    found = [
        image_figures(sam, image, prompts.get(image.id), test.instances_of(image.id)) for image in test.images
    ]
    result: dict[str, Any] = {}
    for name, count in (("first", FIRST), ("all", len(found))):
        part = summary(sam, test.first(count), prompts, "boxes", found[:count])
        result |= {f"AP_{name}": part.AP, f"mIoU_{name}": part.mIoU, f"nan_{name}": part.nan_count}
    return result


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Markdown: mean and sample standard deviation over draws of calibration scenes."""
    floating = next((float(row["AP_all"]) for row in rows if row["row"] == ROWS[0].name), None)
    yield "| row | weights | activations | MB | AP, first 60 | AP, all | of float | mIoU, all |"
    yield "|---|---|---|---|---|---|---|---|"
    for name in (row.name for row in ROWS):
        own = [row for row in rows if row["row"] == name]
        if own:
            ratio = "–" if floating is None else spread(own, "AP_all", 4, 1 / floating)
            cells = [name, own[0]["weights"], own[0]["activations"], spread(own[:1], "bytes", 2, 1e-6)]
            cells += [spread(own, "AP_first", 1, 100), spread(own, "AP_all", 2, 100), ratio]
            yield f"| {' | '.join([*cells, spread(own, 'mIoU_all', 4)])} |"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", default=["*"], help="names or patterns", metavar="NAME")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=200, help="test scenes, at least 60")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/peers.csv"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    kept = Rows(options.out, ("row", "seed", "scenes"), "versions")
    with tempfile.TemporaryDirectory() as scratch:
        for row in runs(options, kept, Path(scratch)):
            kept.add(row)
            print(f"{row['row']} ({row['seed']}): AP {row['AP_first']:.4f} {row['AP_all']:.4f}", flush=True)
    print("\n".join(["", *table(kept.all())]))


if __name__ == "__main__":
    main()
