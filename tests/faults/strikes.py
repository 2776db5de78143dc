"""Strikes at long work, with figures: kills, full disks, two writers, lost workers, memory over 500 pictures.

Too long for the suite. From the root of a checkout::

    OMP_NUM_THREADS=1 python -m tests.faults.strikes [kills disk writers memory ray]

Each line says what was tried, how often it held, and the figures; the exit code is 1 if something broke.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO

import torch
from tests.conftest import make_tiny_sam
from tests.forked import forked

from saqsam import api
from saqsam.pack.file import read_packed
from saqsam.scenes import write_scenes

SETTINGS = (
    *("calibration.images=2", "calibration.prompts=2", "clip.method=none"),
    *("reconstruct.iterations=12", "reconstruct.batch=2"),
)
Found = tuple[bool, str]


class Ground:
    """A tiny model, scenes, and command lines about them; ``place`` is empty and is thrown away."""

    def __init__(self, place: Path) -> None:
        self.place = place
        make_tiny_sam().save_pretrained(place / "model")
        self.scenes = place / "scenes"
        write_scenes(self.scenes, 2, seed=5, size=(64, 64))
        self.where = ["--images", str(self.scenes / "images")]
        self.where += ["--annotations", str(self.scenes / "instances.json")]

    def quantize(self, run: Path | None, out: Path) -> list[str]:
        """Learning, so that there is time to strike."""
        words = ["quantize", str(self.place / "model"), *self.where, "--recipe", "saq-sam-w4a4"]
        words += ["--out", str(out), *(word for one in SETTINGS for word in ("--set", one))]
        return words if run is None else [*words, "--run", str(run)]


def contents(path: Path) -> str:
    """A hash of everything in a packed file but how long it took."""
    from safetensors.torch import load_file

    tensors = load_file(path)
    records = {key: value for key, value in read_packed(path).records.items() if key != "seconds"}
    total = hashlib.sha256(json.dumps(records, sort_keys=True).encode())
    for name in sorted(set(tensors) - {"manifest", "digests", "seal"}):
        total.update(name.encode() + tensors[name].numpy().tobytes())
    return total.hexdigest()


def ended(child: int) -> int:
    """Wait; the exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def shown(words: list[str], before: Callable[[], None] = lambda: None) -> tuple[int, str]:
    """Run to the end; exit code and what stood on stderr."""
    with tempfile.TemporaryFile("w+") as said:
        code = ended(forked(words, before, stderr=said.fileno()))
        said.seek(0)
        return code, said.read()


def kills(ground: Ground, count: int) -> Found:
    """SIGKILL while units learn, then the same command again: equal contents."""
    whole = ground.place / "whole.safetensors"
    assert ended(forked(ground.quantize(ground.place / "whole", whole))) == 0
    expected, steps = contents(whole), (ground.place / "whole" / "losses.jsonl").read_text().count("\n")
    moments, equal, struck = random.Random(7), 0, []
    for number in range(count):
        run, out = ground.place / f"run{number}", ground.place / f"{number}.safetensors"
        at = moments.randrange(1, steps - 1)
        child = forked(ground.quantize(run, out))
        while lines_of(run / "losses.jsonl") < at and os.waitpid(child, os.WNOHANG) == (0, 0):
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)
        killed = ended(child) == -signal.SIGKILL and not out.exists()
        struck.append(lines_of(run / "losses.jsonl"))
        again = ended(forked(["resume", str(run)])) == 0
        equal += killed and again and contents(out) == expected
        shutil.rmtree(run)
    return equal == count, f"{equal} of {count} kills during learning resumed equal; after steps {struck}"


def lines_of(path: Path) -> int:
    """Lines of a file that may not be there yet."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def disk(ground: Ground) -> Found:
    """No room for what quantize, export and the report write: exit code 3, one line, nothing half written."""
    packed = ground.place / "packed.safetensors"
    quick = ["quantize", "nano", *ground.where, "--recipe", "rtn-w4a4", "--out"]
    assert ended(forked([*quick, str(packed)])) == 0
    full = ground.place / "full"
    works = {
        "quantize": [*quick, str(full / "out.safetensors")],
        "quantize --run": ground.quantize(full / "run", full / "out.safetensors"),
        "export": ["export", str(packed), "--out", str(full / "onnx")],
        "report": ["compare", "nano", str(packed), *ground.where, "--html", str(full / "page.html")],
    }

    def scarce() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))

    good, told = True, []
    for name, words in works.items():
        full.mkdir()
        code, said = shown(words, scarce)
        left = [
            path for path in full.rglob("*") if path.suffix in (".part", ".onnx", ".html", ".safetensors")
        ]
        held = code == 3 and "no space left" in said and "make room" in said and not left
        good &= held and "Traceback" not in said
        told.append(f"{name}: exit {code}, {len(left)} files" + ("" if held else f" ({said[-300:]})"))
        shutil.rmtree(full)
    return good, "; ".join(told)


def writers(ground: Ground) -> Found:
    """Two live processes with one run directory, and two with one file to write."""
    run, out = ground.place / "shared", ground.place / "shared.safetensors"
    first = forked(ground.quantize(run, out))
    while not (run / "losses.jsonl").exists():
        time.sleep(0.01)
    code, said = shown([*ground.quantize(run, ground.place / "other.safetensors"), "--force"])
    refused = code == 1 and f"process {first}" in said
    finished = ended(first) == 0
    target = ground.place / "both.safetensors"
    pair = [forked([*ground.quantize(None, target), "--force"]) for _ in range(2)]
    codes = [ended(child) for child in pair]
    whole = ended(forked(["verify", str(target)])) == 0
    held = refused and finished and codes == [0, 0] and whole
    left = list(ground.place.glob("*.part")) + list(ground.place.glob(".*.part"))
    return (
        held and not left,
        f"run directory: second exit {code}, first finished {finished}; file: {codes}, whole {whole}",
    )


def folder(ground: Ground, count: int) -> list[str]:
    """A folder of pictures and boxes on them, as ``saqsam segment`` takes it, all but ``--out``."""
    scenes = ground.place / f"scenes{count}"
    annotations = write_scenes(scenes, count, seed=3)
    objects = json.loads(annotations.read_text())["annotations"]
    keys = ("image_id", "category_id", "bbox")
    boxes = [{**{key: one[key] for key in keys}, "score": 0.9} for one in objects]
    detections = ground.place / f"boxes{count}.json"
    detections.write_text(json.dumps(boxes))
    words = ["segment", "nano", str(scenes / "images"), "--detections", str(detections)]
    return [*words, "--annotations", str(annotations)]


def memory(ground: Ground, pictures: int) -> Found:
    """Resident memory over a long folder: the last quarter against the second."""
    words = [*folder(ground, pictures), "--out", str(ground.place / "results.json")]
    child, samples = forked(words), []
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        status = Path(f"/proc/{child}/status").read_text()
        samples += [int(line.split()[1]) / 1000 for line in status.splitlines() if line.startswith("VmRSS")]
        time.sleep(0.2)
    found = json.loads((ground.place / "results.json").read_text())
    quarter = len(samples) // 4
    second, last = (statistics.median(part) for part in (samples[quarter : 2 * quarter], samples[-quarter:]))
    growth = (last - second) / (pictures / 2)
    told = f"{pictures} pictures, {len(found)} masks: {second:.0f} MB, later {last:.0f} MB"
    told += f", {growth * 1e3:.0f} kB for each picture"
    return last < 1.05 * second, told


def ray(ground: Ground) -> Found:
    """A worker of Ray killed, and the driver: the results are those of one process."""
    words, expected = folder(ground, 60), ground.place / "one.json"
    assert ended(forked([*words, "--out", str(expected)])) == 0
    told, good = [], True
    for victim in ("worker", "driver"):
        out, said = ground.place / f"ray-{victim}", ground.place / f"ray-{victim}.txt"
        command = [sys.executable, "-m", "saqsam", *words, "--on", "ray", "--workers", "2", "--out", str(out)]
        code, struck = started(said, partial(stricken, command, out, victim))
        if victim == "driver":  # the same command goes on
            code, _ = started(said, partial(stricken, command, out, None))
        results = out / "results.json"
        equal = results.exists() and json.loads(results.read_text()) == json.loads(expected.read_text())
        held = code == 0 and equal and struck is not None
        good &= held
        when = "not killed, it ended first" if struck is None else f"killed after {struck} shards"
        why = "" if held else f" ({said.read_text()[-400:]})"
        told.append(f"{victim} {when}: exit {code}, equal {equal}{why}")
        note(told[-1])
    return good, "; ".join(told)


Ended = tuple[int, int | None]


def started(said: Path, run: Callable[[IO[str]], Ended], times: int = 4) -> Ended:
    """``run`` with a file for its errors; again where Ray did not start, as on busy machines it does not."""
    for _ in range(times):
        with said.open("w") as file:
            found = run(file)
        if "Ray did not start" not in said.read_text():
            break
        note("Ray did not start; once more")
    return found


def stricken(command: list[str], out: Path, victim: str | None, file: IO[str]) -> Ended:
    """Run, and kill a worker or the driver once two shards are there: exit code, and the shards by then.

    ``file`` is no pipe: what a killed driver has started would hold it open.
    """
    driver, struck = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file), None
    while victim and struck is None and driver.poll() is None:
        time.sleep(0.02)
        done = shards_of(out)
        if done >= 2 and strike(driver.pid if victim == "driver" else working(driver.pid)):
            struck = done
    return driver.wait(), struck


def shards_of(out: Path) -> int:
    """Shards in the directory of a run."""
    return len(list(out.glob("shards/*.jsonl")))


def strike(pid: int | None) -> bool:
    """SIGKILL; whether there was such a process."""
    if pid is None:
        return False
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def note(text: str) -> None:
    """Say what was tried so far: a strike on a busy machine takes minutes."""
    sys.stderr.write(f"  {text}\n")
    sys.stderr.flush()


def working(driver: int) -> int | None:
    """The process of a Ray worker of this driver that has an actor, found by its parents, or None."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                found[int(entry.name)] = (parent, (entry / "cmdline").read_bytes().decode(errors="replace"))
            except (OSError, ValueError):
                continue

    def below(pid: int) -> bool:
        while pid in found:
            pid = found[pid][0]
            if pid == driver:
                return True
        return False

    working = (
        pid
        for pid, (_, line) in sorted(found.items(), reverse=True)
        if line.startswith("ray::") and "IDLE" not in line and "Stats" not in line and below(pid)
    )
    return next(working, None)


def main() -> int:
    """Run the strikes asked for; 1 if one did not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    strikes = ("kills", "disk", "writers", "memory", "ray")
    parser.add_argument("strikes", nargs="*", choices=[*strikes, []], default=list(strikes))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--pictures", type=int, default=500)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    api.load("nano")  # what every child needs is imported once, here
    actions: dict[str, Callable[[Ground], Found]] = {
        "kills": partial(kills, count=asked.kills),
        "disk": disk,
        "writers": writers,
        "memory": partial(memory, pictures=asked.pictures),
        "ray": ray,
    }
    broken = 0
    for name in asked.strikes:
        with tempfile.TemporaryDirectory() as place:
            ground, begin = Ground(Path(place)), time.monotonic()
            held, told = actions[name](ground)
            broken += not held
            sys.stdout.write(
                f"{name}: {'held' if held else 'BROKE'}: {told} ({time.monotonic() - begin:.0f} s)\n"
            )
            sys.stdout.flush()
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
