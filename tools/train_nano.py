"""Train the embedded SAM from scratch on generated scenes, on CPU.

    python tools/nano_cache.py --out CACHE
    python tools/train_nano.py --cache CACHE --out RUN                      # stable phase, until stopped
    python tools/train_nano.py --cache CACHE --out RUN2 --start RUN/last.pt --decay 3000   # anneal and finish

Every process draws its samples from (seed, rank, step), so a run that is stopped and started again
from RUN/last.pt continues as if nothing had happened.  The learning rate is constant after the
warm-up (``--decay 0``) or falls linearly to zero over ``--decay`` steps counted from ``--start``.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from nano_config import initialise, nano_config, zero_dead_rows
from nano_data import Batch, SceneCache, make_batch
from nano_forward import box_tokens, click_tokens, decode, encode
from nano_loss import AUXILIARY, auxiliary_loss, prompt_loss
from nano_muon import Optimizer, split_parameters
from torch import Tensor, nn
from transformers import SamModel

WARM_UP, PRETRAINING, BALANCED = 100, 400, 2000
EMA = 0.998


def build(options: argparse.Namespace) -> tuple[SamModel, nn.Linear]:
    torch.manual_seed(options.seed)
    config = nano_config(options.hidden, options.layers, options.width)
    model = SamModel._from_config(config, attn_implementation="eager")
    initialise(model)
    return model.train(), nn.Linear(options.width, AUXILIARY)


def correction_click(rng: np.random.Generator, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """A click where the mask is wrong: pixel (B, K, 1, 2) and whether it is foreground (B, K, 1)."""
    wrong = ((logits > 0) != (targets > 0.5)).flatten(2).float() + 1e-6
    noise = torch.from_numpy(rng.random(tuple(wrong.shape), dtype=np.float32)).to(wrong.device)
    place = (wrong.log() - (-noise.clamp(1e-9).log()).log()).argmax(-1)
    click = torch.stack([place % 64, place // 64], dim=-1) * 2.0 + 0.5
    return click[:, :, None], targets.flatten(2).gather(-1, place[..., None]) > 0.5


def prompt_tokens(
    model: SamModel, batch: Batch, kind: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Sparse tokens of the K prompts and the targets in their order.

    kind 0: boxes and single clicks. kind 1: box with click, and click with a background click.
    """
    half = batch.boxes.shape[1] // 2
    clicks = batch.clicks[:, :, None]
    if kind == 0:
        boxes = box_tokens(model, batch.boxes[:, :half])
        return torch.cat([boxes, click_tokens(model, clicks[:, half:])], dim=1), batch.targets
    both = torch.cat(
        [click_tokens(model, clicks[:, :half], pad=False), box_tokens(model, batch.boxes[:, :half])], 2
    )
    outside, inside = correction_click(rng, torch.full_like(batch.targets, 9.0), batch.targets)
    pair = torch.cat([clicks, outside], dim=2)[:, half:]
    foreground = torch.cat([torch.ones_like(inside), inside], dim=2)[:, half:]
    return torch.cat([both, click_tokens(model, pair, foreground)], dim=1), batch.targets


def step_loss(
    model: SamModel, head: nn.Module, batch: Batch, step: int, rng: np.random.Generator
) -> tuple[Tensor, list[float]]:
    tokens = encode(model, batch.pixels)
    auxiliary = auxiliary_loss(head, tokens, batch.labels, batch.extents)
    if step < PRETRAINING:
        return auxiliary, [float(auxiliary.detach()), 0.0, 0.0]
    balance = max(0.0, 1 - (step - PRETRAINING) / BALANCED)
    every = step % 20
    sparse, targets = prompt_tokens(model, batch, int(every in (7, 17)), rng)
    logits, iou = decode(model, tokens, sparse)
    loss, actual = prompt_loss(logits, iou, targets, balance, step % 3 == 0)
    if every in (3, 13) and step > PRETRAINING + 300:  # refine the mask just predicted
        given = logits[:, :, 0].detach()
        if every == 3:
            click, foreground = correction_click(rng, given, targets)
            sparse = torch.cat([sparse, click_tokens(model, click, foreground, pad=False)], dim=2)
        logits, iou = decode(model, tokens, sparse, given.clamp(-32, 32))
        loss = 0.5 * (loss + prompt_loss(logits, iou, targets, balance, False)[0])
    half = actual.shape[1] // 2
    figures = [float(auxiliary.detach()), float(actual[:, :half].mean()), float(actual[:, half:].mean())]
    return loss + 0.5 * auxiliary, figures


def flat_gradient(parameters: list[Tensor]) -> Tensor:
    """Give all gradients one storage, so that one call averages them between processes."""
    flat = torch.zeros(sum(p.numel() for p in parameters))
    start = 0
    for p in parameters:
        p.grad = flat[start : start + p.numel()].view_as(p)
        start += p.numel()
    return flat


def save(path: Path, **state: Any) -> None:
    torch.save(state, path.with_suffix(".part"))
    os.replace(path.with_suffix(".part"), path)


def train(rank: int, options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{options.out}/meet", rank=rank, world_size=options.workers
    )
    model, head = build(options)
    matrices, others = split_parameters(model, head)
    optimizer, parameters = Optimizer(matrices, others), matrices + others
    gradient = flat_gradient(parameters)
    average = {k: v.clone() for k, v in model.state_dict().items()}
    step = first = 0
    start = options.out / "last.pt" if (options.out / "last.pt").exists() else options.start
    if start:
        saved = torch.load(start, weights_only=True)
        model.load_state_dict(saved["model"])
        head.load_state_dict(saved["head"])
        optimizer.restore(saved["optimizer"])
        average, step = saved["average"], saved["step"]
        first = saved["first"] if start != options.start else step
    cache = SceneCache(options.cache)
    began, sums, seen = time.time(), np.zeros(4), 0
    total = first + options.decay if options.decay else options.steps
    while step < total:
        rng = np.random.default_rng([options.seed, rank, step])
        prompts = options.prompts if step >= PRETRAINING else 2
        batch = make_batch(rng, cache, options.images, prompts)
        gradient.zero_()
        loss, figures = step_loss(model, head, batch, step, rng)
        loss.backward()
        dist.all_reduce(gradient)
        gradient /= options.workers
        norm = float(gradient.norm())
        if norm > 2.0:
            gradient *= 2.0 / norm
        rate = min(1.0, (step + 1) / WARM_UP) * (
            max(0.0, 1 - (step - first) / options.decay) if options.decay else 1.0
        )
        optimizer.step(options.muon_lr * rate, options.adam_lr * rate, rank, options.workers)
        zero_dead_rows(model)
        for name, value in model.state_dict().items():
            average[name].lerp_(value, 1 - EMA)
        step += 1
        sums, seen = sums + np.array([float(loss.detach()), *figures]), seen + 1
        if rank == 0 and step % 50 == 0:
            shown = " ".join(f"{x:.4f}" for x in sums / seen)
            print(
                f"step {step} loss/aux/box/click {shown} norm {norm:.2f} "
                f"{seen / (time.time() - began):.2f} steps/s",
                flush=True,
            )
            began, sums, seen = time.time(), np.zeros(4), 0
        if rank == 0 and (step % options.save_every == 0 or step == total):
            state = {"model": model.state_dict(), "average": average, "head": head.state_dict()}
            state |= {"optimizer": optimizer.state(), "step": step, "first": first}
            state["config"] = model.config.to_dict()
            save(options.out / "last.pt", **state)
            if step % (8 * options.save_every) == 0 or step == total:
                save(options.out / f"step-{step:06d}.pt", **state)
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path)
    parser.add_argument("--decay", type=int, default=0)
    parser.add_argument("--steps", type=int, default=10**6)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--images", type=int, default=8, help="per process and step")
    parser.add_argument("--prompts", type=int, default=6, help="per image: half boxes, half clicks")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--muon-lr", type=float, default=3e-3)
    parser.add_argument("--adam-lr", type=float, default=1.5e-3)
    parser.add_argument("--save-every", type=int, default=125)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "meet").unlink(missing_ok=True)
    torch.multiprocessing.spawn(train, (options,), nprocs=options.workers)


if __name__ == "__main__":
    main()
