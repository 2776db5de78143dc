"""Train ``nano-sam2``, the embedded SAM 2, on generated scenes, from nano's weights.

    python tools/nano_cache.py --out SCENES --scenes 3000
    python tools/train_sam2.py --scenes SCENES --out RUN --steps 3000

A run that is stopped continues by the same command from RUN/last.pt as if nothing had happened: what a step
sees depends on the seed and its number alone.  At first the two new stages learn to give what nano's patch
embedding gives; then everything is trained on masks, near nano's embedding until a third of the way.
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nano_config import zero_dead_rows
from nano_data import SceneCache, make_batch, squashed
from nano_loss import AUXILIARY
from nano_muon import Optimizer
from sam2_config import WIDTH, started
from sam2_prompts import step_loss
from torch import Tensor, nn
from transformers import Sam2Model

from saqsam.shipped.embedded import embedded_sam

WARM_UP, ALONE, EMA = 20, 400, 0.99
"""Steps in which the rate rises; in which the first stages learn alone; weight of what was in the average."""
SAVE_SECONDS = 120.0


def split_parameters(model: Sam2Model, head: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Matrices for Muon (hidden linear layers and the neck) and the rest for AdamW."""
    parts = (model.vision_encoder.backbone.blocks, model.mask_decoder)
    matrices = [m.weight for part in parts for m in part.modules() if isinstance(m, nn.Linear)]
    matrices += [convolution.weight for convolution in model.vision_encoder.neck.convs]
    known = {id(p) for p in matrices}
    return matrices, [p for p in (*model.parameters(), *head.parameters()) if id(p) not in known]


class Run:
    """Model, optimizer and averaged weights at one step, and where they are kept.

    ``fast`` is the model in the precision of the arithmetic; its gradients go to ``model``, which is float32.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, dtype = options, getattr(torch, options.dtype)
        nano = embedded_sam("nano")
        self.model = started(nano, options.seed).train().requires_grad_(True)
        self.head, self.teacher = nn.Linear(WIDTH, AUXILIARY), nano.to(dtype)
        matrices, others = split_parameters(self.model, self.head)
        self.parameters = matrices + others
        self.optimizer = Optimizer(matrices, others, decay=0.01, dtype=dtype)
        self.average = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.step = 0
        start = next(
            (path for path in (options.out / "last.pt", options.start) if path and path.exists()), None
        )
        if start:
            self.restore(torch.load(start, weights_only=True))
        self.fast = copy.deepcopy(self.model).to(dtype)
        for codes in (self.fast.shared_image_embedding, self.fast.prompt_encoder.shared_embedding):
            codes.float()  # an angle has no use for few digits
        self.pairs = list(zip(self.model.parameters(), self.fast.parameters(), strict=True))
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Take the weights over into the arithmetic's precision."""
        zero_dead_rows(self.model)
        for own, fast in self.pairs:
            fast.copy_(own)

    def restore(self, saved: dict[str, Any]) -> None:
        self.model.load_state_dict(saved["model"])
        self.average = saved["average"]
        self.head.load_state_dict(saved["head"])
        self.optimizer.restore(saved["optimizer"])
        self.step = saved["step"]

    def save(self, name: str = "last.pt") -> None:
        """Write the whole state."""
        out: Path = self.options.out
        state = {"model": self.model.state_dict(), "average": self.average, "head": self.head.state_dict()}
        state |= {
            "optimizer": self.optimizer.state(),
            "step": self.step,
            "config": self.model.config.to_dict(),
        }
        torch.save(state, out / f"{name}.part")
        os.replace(out / f"{name}.part", out / name)

    def rate(self) -> float:
        """Factor of the learning rate at this step: it falls to zero from where prompts come in."""
        if self.step < ALONE:
            return 1.5 * min(1.0, (self.step + 1) / WARM_UP)
        return (self.options.steps - self.step) / (self.options.steps - ALONE)

    def teaching(self) -> float:
        """Weight of the distances from nano: gone after a third of the steps."""
        until = self.options.steps / 3
        return min(1.0, max(0.0, (until - self.step) / max(1.0, until - ALONE)))

    def follow(self, scenes: SceneCache) -> list[float]:
        """One step: loss, the figures of ``step_loss``, and the norm of the gradient."""
        options, prompted = self.options, self.step >= ALONE
        rng = np.random.default_rng([options.seed, self.step])
        images, prompts = (options.images, options.prompts) if prompted else (options.images // 2, 2)
        batch = make_batch(rng, scenes, images, prompts, squashed, 0.0)
        for parameter in (*self.fast.parameters(), *self.head.parameters()):
            parameter.grad = None
        loss, figures = step_loss(
            self.fast, self.head, self.teacher, batch, self.step, rng, self.teaching(), prompted
        )
        loss.backward()
        for own, fast in self.pairs:
            own.grad = torch.zeros_like(own) if fast.grad is None else fast.grad.float()
        for own in self.head.parameters():
            own.grad = torch.zeros_like(own) if own.grad is None else own.grad
        norm = float(nn.utils.clip_grad_norm_(self.parameters, 2.0))
        rate = self.rate()
        self.optimizer.step(options.muon_lr * rate, options.adam_lr * rate)
        self.refresh()
        share = max(1 - EMA, 9 / (self.step + 10))  # at first the average forgets where it started
        for name, value in self.model.state_dict().items():
            self.average[name].lerp_(value, share)
        self.step += 1
        return [float(loss.detach()), *figures, norm]


def train(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    run, scenes = Run(options), SceneCache(options.scenes)
    began = saved = time.time()
    sums, seen = np.zeros(6), 0
    while run.step < options.steps:
        sums, seen = sums + np.array(run.follow(scenes)), seen + 1
        if run.step % 25 == 0:
            shown = " ".join(f"{x:.4f}" for x in sums / seen)
            pace = seen / (time.time() - began)
            print(
                f"step {run.step} loss/patches/embedding/box/click/norm {shown} {pace:.2f} steps/s",
                flush=True,
            )
            began, sums, seen = time.time(), np.zeros(6), 0
        if time.time() - saved > SAVE_SECONDS:
            run.save()
            saved = time.time()
    run.save()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=Path, required=True, help="written by nano_cache.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="a state to go on from, where --out has none")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--images", type=int, default=8, help="half of them while the first stages learn alone"
    )
    parser.add_argument("--prompts", type=int, default=6, help="per image: half boxes, half clicks")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--muon-lr", type=float, default=2e-3)
    parser.add_argument("--adam-lr", type=float, default=1e-3)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    train(options)


if __name__ == "__main__":
    main()
