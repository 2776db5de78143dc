"""What each part of ``best`` is worth: one change at a time, on scenes that serve for nothing else.

    python benchmarks/ablation.py                                  # all rows, two hours of one core
    python benchmarks/ablation.py --rows star "star + mixed" --bits w3a3 --seeds 1
    python benchmarks/ablation.py --stop-after 480                 # some rows; the next call goes on

``best`` is chosen by this table, so its scenes are *validation* scenes: no figure that is reported as a
result may come from them. A seed draws its own calibration scenes. Rows in the CSV are not measured again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rows import Rows, spread

from saqsam import api
from saqsam.recipe import load_recipe
from saqsam.scenes import write_scenes

VALIDATION_SEED, CALIBRATION_SEED = 7001, 7100
KEY = ("model", "row", "bits", "seed")


@dataclass(frozen=True)
class Row:
    """A shipped recipe with a few keys changed.

    Attributes:
        name: the row's name.
        recipe: a shipped recipe.
        settings: what is changed.
    """

    name: str
    recipe: str
    settings: tuple[str, ...] = ()


def _row(name: str, recipe: str, *settings: str) -> Row:
    return Row(name, recipe, settings)


def _star(name: str, *settings: str) -> Row:
    return Row(f"star + {name}", "saq-sam-star", settings)


def _fast(name: str, *settings: str) -> Row:
    return Row(f"fast + {name}", "saq-sam-fast", settings)


_CENTRE, _SCALE = "folds.key_centring=true", "folds.value_output_scaling=true"
_EQUALISE = "folds.query_key_equalisation=true"
_FOLDS = (_CENTRE, _EQUALISE, _SCALE, "folds.bimodal_sign_flip=false")
_STREAM, _MIXED = "folds.residual_rotation=true", "mixed.enabled=true"
_ROTATIONS = ("folds.value_rotation=true", "folds.encoder_query_key_rotation=true", _STREAM)
_CLOSED = (
    *("reconstruct.encoder=local", "reconstruct.unit=block", "reconstruct.rounding=gptq"),
    *("reconstruct.passes=unit", "reconstruct.scales=false", "reconstruct.tokens=512"),
)
_MOVED, _DAMPED = "reconstruct.compensate=encoder", "reconstruct.damping=0.1"
_EVERYWHERE = "reconstruct.decoder=local"
_WHOLE = ("reconstruct.whole_iterations=60", "reconstruct.whole_rate=0.006")
_BIASES = "reconstruct.bias_rate=0.003"
_BASE = (_BIASES, *_FOLDS)

ROWS = (
    # Without learning: seconds each, so that folds are judged alone.
    _row("star", "saq-sam-star"),
    _star("key centring", _CENTRE),
    _star("query/key equalisation", _EQUALISE),
    _star("value/output scaling", _SCALE),
    _star("value rotation", "folds.value_rotation=true"),
    _star("query/key rotation, decoder", "folds.query_key_rotation=true"),
    _star("query/key rotation, encoder", "folds.encoder_query_key_rotation=true"),
    _star("stream rotation", "folds.residual_rotation=true"),
    _star("mixed precision", _MIXED),
    _star("mixed precision, stream rotation", _MIXED, _STREAM),
    _star("mixed precision, folds, rotations", _MIXED, *_FOLDS, *_ROTATIONS),
    _star("closed form, weights moved", *_CLOSED, _MOVED),
    _star("closed form, weights moved, stream rotation", *_CLOSED, _MOVED, _STREAM),
    _star("closed form, weights moved, stream rotation, mixed precision", *_CLOSED, _MOVED, _STREAM, _MIXED),
    _star("mixed precision, value/output scaling", _MIXED, _SCALE),
    _star("mixed precision, closed form, weights moved", _MIXED, *_CLOSED, _MOVED),
    _star("mixed precision, closed form", _MIXED, *_CLOSED),
    _star("mixed precision, closed form, damping 0.1", _MIXED, *_CLOSED, _DAMPED),
    _star(
        "mixed precision, closed form, value/output scaling",
        _MIXED,
        *_CLOSED,
        _SCALE,
    ),
    _star("mixed precision, closed form everywhere", _MIXED, *_CLOSED, _EVERYWHERE),
    _star("mixed precision, whole", _MIXED, *_WHOLE),
    # With learning.
    _row("fast", "saq-sam-fast"),
    _fast("learned biases", _BIASES),
    _fast("biases, scaling folds", *_BASE),
    _fast("biases, scaling folds, stream rotation", *_BASE, _STREAM),
    _fast("biases, scaling folds, rotations", *_BASE, *_ROTATIONS),
    _fast("biases, scaling folds, whole", *_BASE, *_WHOLE),
    _fast("biases, scaling folds, rotations, whole", *_BASE, *_ROTATIONS, *_WHOLE),
    _fast("biases, whole", _BIASES, *_WHOLE),
    _fast("biases, whole, mixed", _BIASES, *_WHOLE, _MIXED),
    _fast("biases, whole, mixed, stream rotation", _BIASES, *_WHOLE, _MIXED, _STREAM),
)


def runs(options: argparse.Namespace, rows: Rows, scratch: Path) -> Iterator[dict[str, Any]]:
    """New rows as they are measured; cheap ones first, as listed."""
    began = time.perf_counter()
    validation = scratch / "validation"
    truth = write_scenes(validation, options.images, VALIDATION_SEED)
    sam = api.load(options.model)
    for row in (row for row in ROWS if not options.rows or row.name in options.rows):
        for bits in options.bits:
            for seed in range(options.seeds):
                stamp = hashlib.sha256(json.dumps([row.recipe, row.settings]).encode()).hexdigest()[:12]
                head = {"model": options.model, "row": row.name, "bits": bits, "seed": seed, "stamp": stamp}
                if rows.has(head):
                    continue
                if options.stop_after and time.perf_counter() - began > options.stop_after:
                    return
                scenes = scratch / f"calibration-{seed}"
                if not scenes.is_dir():
                    write_scenes(scenes, 32, CALIBRATION_SEED + seed)
                settings = (*row.settings, f"calibration.seed={seed}")
                recipe = load_recipe(row.recipe, bits=bits, settings=settings)
                cpu = time.process_time()
                packed = api.quantize(sam, recipe, scenes / "images", scenes / "instances.json")
                found = {"seconds": round(time.process_time() - cpu, 1)}
                for name, prompts in (("boxes", "boxes"), ("clicks", "points")):
                    seen = api.evaluate(packed, validation / "images", truth, prompts, reference=sam)
                    found |= {f"{name}_AP": seen.AP, f"{name}_mIoU": seen.mIoU}
                    found |= {f"{name}_agreement": seen.agreement}
                rows.add({**head, **found})
                yield {**head, **found}


def summary(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Markdown table: mean and sample standard deviation over seeds."""
    yield "| model | bits | row | boxes: AP | mIoU | agreement | clicks: AP | mIoU | agreement | CPU s |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    order = {row.name: place for place, row in enumerate(ROWS)}
    groups = dict.fromkeys((row["model"], row["bits"], row["row"]) for row in rows)
    for group in sorted(groups, key=lambda group: (*group[:2], order.get(group[2], len(order)))):
        own = [row for row in rows if (row["model"], row["bits"], row["row"]) == group]
        cells = []
        for prompts in ("boxes", "clicks"):
            cells += [spread(own, f"{prompts}_AP", 1, 100)]
            cells += [spread(own, f"{prompts}_{figure}", 4) for figure in ("mIoU", "agreement")]
        yield f"| {' | '.join(group)} | " + " | ".join([*cells, spread(own, "seconds", 0)]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", choices=[row.name for row in ROWS], metavar="NAME")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--bits", nargs="+", default=["w4a4", "w3a3"])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--images", type=int, default=60, help="validation scenes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--stop-after", type=float, help="begin no row after so many seconds")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ablation.csv"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = Rows(options.out, KEY, "stamp")
    with tempfile.TemporaryDirectory() as scratch:
        for row in runs(options, rows, Path(scratch)):
            shown = " ".join(str(row[column]) for column in KEY)
            print(f"{shown}: mIoU {row['boxes_mIoU']:.4f}, {row['clicks_mIoU']:.4f}", flush=True)
    print("\n".join(["", *summary(rows.all())]))


if __name__ == "__main__":
    main()
