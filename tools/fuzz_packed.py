"""Edit configuration, recipe and manifest of packed models at random and load them, hashes made right again.

``python tools/fuzz_packed.py --edits 10000`` packs a small SAM on all four kinds of grids, edits it as a file
or as a directory, and prints how each edit was answered. A model may be loaded, or refused by a
``SaqsamError``; any other exception, more seconds than ``--seconds``, or more memory than ``--memory`` and
sixteen times the size of the file is a failure, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import json
import random
import signal
import sys
import tempfile
import time
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import SamConfig, SamModel

import saqsam
from saqsam.drop_in.names import CONFIG, WEIGHTS
from saqsam.errors import SaqsamError
from saqsam.pack.container import SECTIONS, assemble, locate_sections, parse_header
from saqsam.pack.contents import Malformed
from saqsam.pack.manifest import decode_manifest
from saqsam.recipe import load_recipe
from saqsam.sam import Sam
from saqsam.scenes import write_scenes

RECIPE = "ahcptq-w4a4"  # affine, logarithmic, grouped and hybrid grids
_SETTINGS = ("reconstruct.encoder=none", "reconstruct.decoder=none", "calibration.images=2")
_MOST_SECTION = 1 << 24
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_NUMBERS: tuple[Any, ...] = (
    0,
    1,
    -1,
    2,
    3,
    7,
    255,
    256,
    65536,
    2**31,
    2**63,
    10**9,
    10**30,
    0.0,
    -1.5,
    1e308,
)
_OTHERS: tuple[Any, ...] = (
    None,
    True,
    False,
    "",
    "x",
    "eager",
    "../x",
    [],
    {},
    [0],
    {"a": 1},
    "relu",
    "\u202e",
)
_KEYS = ("_attn_implementation", "attn_implementation", "num_labels", "id2label", "dtype", "vision_config")


@dataclass
class Tally:
    """How the edits were answered.

    Attributes:
        answers: ``loaded`` or the name of the error -> how often.
        failures: what must not happen, one line each.
        seconds: of the slowest edit.
        megabytes: of the edit that took most memory, beside what the process held before it.
    """

    answers: Counter[str]
    failures: list[str]
    seconds: float = 0.0
    megabytes: float = 0.0


def edited(content: Any, chance: random.Random) -> Any:
    """``content`` (JSON, changed in place) with one value, key or entry somewhere in it other than it was."""
    places = list(_places(content))
    parent, key = chance.choice(places)
    kind = chance.randrange(8)
    value = parent[key]
    if kind == 0:
        del parent[key]
    elif kind == 1 and isinstance(value, int | float) and not isinstance(value, bool):
        parent[key] = chance.choice((value + 1, value - 1, value * 2, -value, value * 10**6))
    elif kind == 2:
        other, name = chance.choice(places)
        parent[key] = json.loads(json.dumps(other[name]))
    elif kind == 3 and isinstance(parent, dict):
        parent[chance.choice(_KEYS)] = chance.choice((*_NUMBERS, *_OTHERS, "kernels-community/flash-attn"))
    elif kind == 4 and isinstance(value, list) and value:
        parent[key] = value * chance.choice((2, 3, 100))
    elif kind == 5 and isinstance(parent, dict):
        parent[f"{key}x"] = parent.pop(key)
    elif kind == 6:
        deep: Any = value
        for _ in range(chance.choice((1, 3, 200))):
            deep = [deep]
        parent[key] = deep
    else:
        parent[key] = chance.choice(chance.choice((_NUMBERS, _OTHERS)))
    return content


def _places(content: Any) -> Any:
    """Every (container, key or index) below ``content``."""
    waiting = [content]
    while waiting:
        node = waiting.pop()
        keys: Any = node.keys() if isinstance(node, dict) else range(len(node))
        for key in keys:
            yield node, key
            if isinstance(node[key], dict | list):
                waiting.append(node[key])


def small_model(directory: Path) -> Path:
    """A packed SAM of two small layers with random weights, calibrated on two generated scenes."""
    annotations = write_scenes(directory, 2, 12, size=(64, 64))
    torch.manual_seed(1)
    config = SamConfig(
        vision_config={
            **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_dim": 64},
            **{"image_size": 64, "patch_size": 8, "window_size": 3, "global_attn_indexes": [1]},
            **{"output_channels": 32, "num_pos_feats": 16, "initializer_range": 0.05},
        },
        prompt_encoder_config={
            "hidden_size": 32,
            "image_size": 64,
            "patch_size": 8,
            "mask_input_channels": 8,
        },
        mask_decoder_config={
            **{"hidden_size": 32, "mlp_dim": 64, "num_attention_heads": 2, "num_hidden_layers": 1},
            "iou_head_hidden_dim": 32,
        },
    )
    sam = Sam(SamModel(config).eval().requires_grad_(False), "small")
    recipe = load_recipe(RECIPE, settings=_SETTINGS)
    saqsam.quantize(sam, recipe, directory / "images", annotations).save(directory / "small.safetensors")
    return directory / "small.safetensors"


class PackedBytes:
    """A packed file taken apart, to be put together again around another manifest.

    Args:
        path: an intact packed file.
    """

    def __init__(self, path: Path) -> None:
        raw = path.read_bytes()
        places = locate_sections(parse_header(raw), len(raw))
        self.sections = {name: raw[place] for name, place in places.items()}
        self.manifest = json.loads(zlib.decompress(self.sections["manifest"]))

    def with_manifest(self, manifest: Any, *, fitting: bool) -> bytes:
        """The file with another manifest and hashes to match; ``fitting`` gives each section the size that
        the rows ask for, where that is not large."""
        sections = dict(self.sections)
        sections["manifest"] = zlib.compress(json.dumps(manifest).encode(), 6)
        try:
            rows = decode_manifest(sections["manifest"])
        except (Malformed, ValueError):
            rows = None
        if rows is not None and fitting:
            for name, size in rows.section_bytes().items():
                if name != "digests" and size <= _MOST_SECTION:
                    sections[name] = (sections[name] * (size // max(1, len(sections[name])) + 1))[:size]
        if rows is not None:
            sections["digests"] = _digests(sections, rows)
        sections["digests"] = sections["digests"][:-32] + hashlib.sha256(sections["manifest"]).digest()
        del sections["seal"]
        return b"".join(assemble({name: [data] for name, data in sections.items()}, "fuzz"))


def _digests(sections: dict[str, bytes], rows: Any) -> bytes:
    used = dict.fromkeys(SECTIONS, 0)

    def take(name: str, size: int) -> bytes:
        start = used[name]
        used[name] = start + size
        return sections[name][start : start + size]

    found = [
        take("codes", row.code_bytes)
        + take("scales", 4 * row.shape[0])
        + take("zero_points", row.zero_point_bytes)
        for row in rows.weights
    ]
    found += [take(f"rest_{row.dtype.lower()}", row.bytes) for row in rows.rest]
    found += [sections["activation_scales"], sections["manifest"]]
    return b"".join(hashlib.sha256(part).digest() for part in found)


class Fuzzer:
    """Edits models and loads them.

    Args:
        model: an intact packed file.
        scratch: an empty directory.
        chance: where randomness comes from.
    """

    def __init__(self, model: Path, scratch: Path, chance: random.Random) -> None:
        self.model = PackedBytes(model)
        saqsam.load(model).save_pretrained(scratch / "saved")
        self.config = json.loads((scratch / "saved" / CONFIG).read_text())
        self.file, self.directory = scratch / "edited.safetensors", scratch / "edited"
        self.directory.mkdir()
        self.chance = chance

    def next(self) -> Path:
        """One more edited model: a file, or a directory with configuration, packed file or both edited."""
        chance, model = self.chance, self.model
        manifest, config = json.loads(json.dumps([model.manifest, self.config]))
        in_directory, where = chance.random() < 0.4, chance.random()
        if not in_directory or where < 0.6:
            part = chance.choice(
                ("config", "config", "recipe", "weights", "activations", "rest", "records", "")
            )
            for _ in range(chance.choice((1, 1, 2, 5))):
                target = manifest[part] if part and isinstance(manifest.get(part), dict | list) else manifest
                if target:
                    edited(target, chance)
        data = model.with_manifest(manifest, fitting=chance.random() < 0.5)
        if not in_directory:
            self.file.write_bytes(data)
            return self.file
        (self.directory / WEIGHTS).write_bytes(data)
        if where < 0.3 and isinstance(manifest.get("config"), dict):
            config = {**config, **manifest["config"]}  # the same edit on both sides
        elif where >= 0.6:
            edited(config, chance)
        if isinstance(config.get("quantization_config"), dict):
            config["quantization_config"]["sha256"] = data[-32:].hex()
        (self.directory / CONFIG).write_text(json.dumps(config))
        return self.directory


def load_all(fuzzer: Fuzzer, edits: int, seconds: float, megabytes: float) -> Tally:
    """Load so many edited models; ten times ``seconds`` of CPU for one end the process with a traceback."""
    faulthandler.register(signal.SIGPROF, chain=True)
    tally = Tally(Counter(), [])
    for number in range(edits):
        path = fuzzer.next()
        size = sum(file.stat().st_size for file in path.iterdir()) if path.is_dir() else path.stat().st_size
        before, start = _fresh_peak(), time.process_time()
        signal.setitimer(signal.ITIMER_PROF, 10 * seconds)  # CPU time: a busy machine is no hang
        try:
            saqsam.load(path)
            answer = "loaded"
        except SaqsamError as error:
            answer = type(error).__name__
        except Exception as error:  # noqa: BLE001 - that none escapes is what is looked for
            answer = f"escaped: {type(error).__name__}"
            tally.failures.append(f"edit {number}: {type(error).__name__}: {str(error)[:200]}")
        signal.setitimer(signal.ITIMER_PROF, 0)
        took, grown = time.process_time() - start, (_kilobytes("VmHWM") - before) / 1024
        tally.answers[answer] += 1
        tally.seconds, tally.megabytes = max(tally.seconds, took), max(tally.megabytes, grown)
        if number % 1000 == 999:
            print(f"{number + 1} edits, {len(tally.failures)} failures", file=sys.stderr, flush=True)
        if took > seconds:
            tally.failures.append(f"edit {number}: {took:.1f} CPU seconds ({answer})")
        if grown > megabytes + 16 * size / 2**20:
            tally.failures.append(f"edit {number}: {grown:.0f} MiB for a file of {size} bytes ({answer})")
    return tally


def _fresh_peak() -> int:
    """Forget the highest memory so far; the memory held now, in kB, or 0 where the system does not tell."""
    if _RESET.exists():
        _RESET.write_text("5")
    return _kilobytes("VmRSS")


def _kilobytes(name: str) -> int:
    if not _STATUS.exists():
        return 0
    return next(int(line.split()[1]) for line in _STATUS.read_text().splitlines() if line.startswith(name))


def main() -> int:
    """The command line; see the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--edits", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=10.0, help="CPU seconds that one edit may take")
    parser.add_argument("--memory", type=float, default=128.0, help="MiB beside 16 times the file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        model = small_model(Path(directory))
        (Path(directory) / "scratch").mkdir()
        fuzzer = Fuzzer(model, Path(directory) / "scratch", random.Random(options.seed))
        tally = load_all(fuzzer, options.edits, options.seconds, options.memory)
    for answer, count in tally.answers.most_common():
        print(f"{count:6d}  {answer}")
    print(f"slowest {tally.seconds:.2f} CPU s, most memory {tally.megabytes:.0f} MiB")
    print("\n".join(tally.failures[:50]) or "no hang, nothing escaped, memory bounded")
    return 1 if tally.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
