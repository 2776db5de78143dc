"""Train ``small``, the embedded SAM for photographs, from nano's weights; on a CPU core or a GPU.

    python tools/nano_cache.py --out SCENES --scenes 3000
    python tools/train_small.py --photos PHOTOS --scenes SCENES --out RUN                 # until stopped
    python tools/train_small.py --photos PHOTOS --scenes SCENES --out RUN --steps 8000 --decay 2000

A run that is stopped continues by the same command from RUN/last.pt as if nothing had happened: what a step
sees depends on the seed and its number alone.  The rate is constant, and falls linearly to zero over the last
``--decay`` of ``--steps``; RUN/stable.pt keeps the state before the fall, from which a longer run can go on
(``--start``).  RUN/average.safetensors and RUN/config.json hold the averaged weights.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from export_nano import plain_config
from nano_config import zero_dead_rows
from nano_loss import AUXILIARY
from nano_muon import Optimizer, split_parameters
from photos_prefetch import Wanted, batches
from photos_samples import Sample
from safetensors.torch import save_file
from small_config import WIDTH, grown
from small_prompts import on_device, step_loss
from torch import nn

from saqsam.shipped.embedded import embedded_sam

WARM_UP, EMA = 100, 0.998
SAVE_SECONDS = 180.0


class Run:
    """Model, optimizer and averaged weights at one step, and where they are kept."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.device = options, torch.device(options.device)
        self.model = grown(embedded_sam("nano"), options.seed).to(self.device).train()
        self.model.requires_grad_(True)
        self.model.shared_image_embedding.positional_embedding.requires_grad_(False)
        self.head = nn.Linear(WIDTH, AUXILIARY).to(self.device)
        matrices, others = split_parameters(self.model, self.head)
        self.parameters = matrices + others
        self.dtype = getattr(torch, options.dtype)
        self.optimizer = Optimizer(matrices, others, dtype=self.dtype)
        self.average = self._silenced(self.model.state_dict())
        self.step = self.first = 0
        last = options.out / "last.pt"
        start = last if last.exists() else options.start
        if start:
            self.restore(torch.load(start, weights_only=True, map_location=self.device))

    def _silenced(self, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Weights with one query/key channel of each head without effect, for the outlier variant; the model
        has them afterwards."""
        self.model.load_state_dict(weights)
        zero_dead_rows(self.model)
        return {k: v.clone() for k, v in self.model.state_dict().items()}

    def restore(self, saved: dict[str, Any]) -> None:
        self.average = self._silenced(saved["average"])
        self._silenced(saved["model"])
        self.head.load_state_dict(saved["head"])
        self.optimizer.restore(saved["optimizer"])
        self.step, self.first = saved["step"], saved["first"]

    def save(self, name: str = "last.pt") -> None:
        """Write the whole state, and the averaged weights for those who only want to use them."""
        out: Path = self.options.out
        state = {"model": self.model.state_dict(), "average": self.average, "head": self.head.state_dict()}
        state |= {"optimizer": self.optimizer.state(), "step": self.step, "first": self.first}
        state["config"] = self.model.config.to_dict()
        torch.save(state, out / f"{name}.part")
        os.replace(out / f"{name}.part", out / name)
        weights = {k: v.half().cpu().contiguous().clone() for k, v in self.average.items()}
        save_file(weights, out / "average.part", metadata={"format": "pt", "step": str(self.step)})
        os.replace(out / "average.part", out / "average.safetensors")
        config = {"model_type": "sam", "architectures": ["SamModel"], **plain_config(state["config"])}
        (out / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")

    def rate(self) -> float:
        """Share of the full learning rate at this step."""
        rate = min(1.0, (self.step - self.first + 1) / WARM_UP)
        if self.options.decay:
            rate *= min(1.0, (self.options.steps - self.step) / self.options.decay)
        return rate

    def follow(self, sample: Sample) -> list[float]:
        """One step: loss, the figures of ``step_loss``, and the norm of the gradient."""
        rng = np.random.default_rng([self.options.seed, self.step, 1])
        batch = on_device(sample, self.device)
        loss, figures = step_loss(self.model, self.head, batch, self.step, rng, self.dtype)
        norm = self._update(loss)
        return [float(loss.detach()), *figures, norm]

    def _update(self, loss: torch.Tensor) -> float:
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        norm = float(nn.utils.clip_grad_norm_(self.parameters, 2.0))
        rate = self.rate()
        self.optimizer.step(self.options.muon_lr * rate, self.options.adam_lr * rate)
        zero_dead_rows(self.model)
        taken = self.step - self.first
        share = max(1 - EMA, 9 / (taken + 10))  # at first the average forgets where it started
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                self.average[name].lerp_(value, share)
        self.step += 1
        return norm


def train(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    run = Run(options)
    wanted = Wanted(options.photos, options.scenes, options.seed, options.images, options.prompts)
    began = saved = time.time()
    sums, seen = np.zeros(5), 0
    for sample in batches(wanted, run.step, options.steps, options.workers):
        if options.decay and run.step == options.steps - options.decay:
            run.save("stable.pt")
        sums, seen = sums + np.array(run.follow(sample)), seen + 1
        if run.step % 50 == 0:
            shown = " ".join(f"{x:.4f}" for x in sums / seen)
            pace = seen / (time.time() - began)
            print(f"step {run.step} loss/aux/box/click/norm {shown} {pace:.2f} steps/s", flush=True)
            began, sums, seen = time.time(), np.zeros(5), 0
        if time.time() - saved > SAVE_SECONDS:
            run.save()
            saved = time.time()
    run.save()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True, help="images/, instances.json; backgrounds")
    parser.add_argument("--scenes", type=Path, required=True, help="written by nano_cache.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="a state to go on from, where --out has none")
    parser.add_argument("--steps", type=int, default=10**6)
    parser.add_argument("--decay", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--prompts", type=int, default=6, help="per image: half boxes, half clicks")
    parser.add_argument("--workers", type=int, default=1, help="processes that make samples")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--muon-lr", type=float, default=2e-3)
    parser.add_argument("--adam-lr", type=float, default=1e-3)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    train(options)


if __name__ == "__main__":
    main()
