"""Batches made ahead of time by processes beside the training; a step's batch depends on its number alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty, Full
from typing import NamedTuple

import numpy as np
from photos_samples import Sample, draw_batch, load_sources

_AHEAD = 4
"""Batches that a process keeps ready."""


class Wanted(NamedTuple):
    """What the processes need to know."""

    photos: Path
    scenes: Path
    seed: int
    images: int
    prompts: int


def batch_rng(seed: int, step: int) -> np.random.Generator:
    return np.random.default_rng([seed, step])


def _work(wanted: Wanted, steps: range, queue: Queue[Sample], parent: int) -> None:
    sources = load_sources(wanted.photos, wanted.scenes)
    for step in steps:
        batch = draw_batch(batch_rng(wanted.seed, step), sources, wanted.images, wanted.prompts)
        while True:
            if os.getppid() != parent:  # the training is gone, and nobody will read what is queued
                queue.cancel_join_thread()
                return
            try:
                queue.put(batch, timeout=5)
                break
            except Full:
                continue


def batches(wanted: Wanted, first: int, last: int, workers: int) -> Iterator[Sample]:
    """The batches of steps ``first`` to ``last - 1``; without workers they are made here."""
    if not workers:
        sources = load_sources(wanted.photos, wanted.scenes)
        for step in range(first, last):
            yield draw_batch(batch_rng(wanted.seed, step), sources, wanted.images, wanted.prompts)
        return
    context = get_context("spawn")
    queues: list[Queue[Sample]] = [context.Queue(_AHEAD) for _ in range(workers)]
    processes = [
        context.Process(
            target=_work, args=(wanted, range(first + k, last, workers), queue, os.getpid()), daemon=True
        )
        for k, queue in enumerate(queues)
    ]
    for process in processes:
        process.start()
    for step in range(first, last):
        yield _taken(queues[(step - first) % workers], processes[(step - first) % workers])
    for process in processes:
        process.join()


def _taken(queue: Queue[Sample], process: object) -> Sample:
    while True:
        try:
            return queue.get(timeout=30)
        except Empty:
            if not process.is_alive():  # type: ignore[attr-defined]
                raise RuntimeError("a process that makes samples has ended; its message is above") from None
