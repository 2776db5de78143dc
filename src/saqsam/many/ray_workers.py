"""Many processes, on this machine or on a cluster: Ray Data with one model for each worker.

Chunks stream through a pool of actors. Each actor loads the model once, writes the shards of the chunks it
is given, and sends back only how many images that were. Ray starts a lost actor again and repeats its
chunk; a shard that is already there is not done twice.

On a cluster (``RAY_ADDRESS``), images and the directory of shards must be seen by every machine.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from saqsam.errors import RunError, SaqsamError
from saqsam.extras import require_ray
from saqsam.images.files import current_pixel_limit, pixel_limit
from saqsam.many.run import ShardWriter
from saqsam.many.work import Chunk, Job

_MOST_BLOCKS = 1000
# Ray reads these when it starts: send nothing home, and write no account of its work on stderr.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}


@dataclass(frozen=True)
class RayEngine:
    """An engine of several processes.

    Attributes:
        workers: processes; each has a model of its own.
        device: torch device of the models; with ``cuda`` each worker has a GPU of its own.
    """

    workers: int
    device: str = "cpu"

    @property
    def threads(self) -> int:
        """Threads of torch in each worker: the cores of this machine divided among them."""
        return max(1, _cores() // self.workers)

    def __call__(self, job: Job, todo: Sequence[Chunk], write: ShardWriter) -> Iterator[int]:
        """Yield the number of images of every chunk that is done.

        Raises:
            UsageError: Ray is not installed. RunError: a worker met an error that another try will not mend.
        """
        ray = import_ray()
        with _session(ray, self.workers * self.threads):
            yield from self._stream(ray, job, todo, write)

    def _stream(self, ray: Any, job: Job, todo: Sequence[Chunk], write: ShardWriter) -> Iterator[int]:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        work = ray.put(tuple(todo))
        places = ray.data.from_items(
            [{"place": place} for place in range(len(todo))],
            override_num_blocks=min(len(todo), _MOST_BLOCKS),
        )
        done = places.map_batches(
            _Worker,
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(self.workers, len(todo))),
            fn_constructor_kwargs={
                "job": job,
                "work": [work],
                "write": write,
                "threads": self.threads,
                "directory": os.getcwd(),
                "max_pixels": current_pixel_limit(),
            },
            num_cpus=self.threads,
            num_gpus=1 if self.device.startswith("cuda") else None,
        )
        try:
            for row in done.iter_rows():
                yield int(row["images"])
        except ray.exceptions.RayError as error:
            raise RunError(
                f"a worker failed: {_reason(error)}; finished images are kept, "
                "the same command goes on from there"
            ) from error


class _Worker:
    """One actor: a model, and the chunks it is given by their place."""

    def __init__(
        self,
        job: Job,
        work: Sequence[Any],
        write: ShardWriter,
        threads: int,
        directory: str,
        max_pixels: int,
    ) -> None:
        os.chdir(directory)  # names of images and models may be relative to where the run was begun
        torch.set_num_threads(threads)
        self.chunks: Sequence[Chunk] = import_ray().get(work[0])
        self.write, self.max_pixels = write, max_pixels
        self.answer = job.start()

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[int]]:
        images = []
        for place in batch["place"]:
            chunk = self.chunks[int(place)]
            try:
                with pixel_limit(self.max_pixels):
                    self.write(chunk, self.answer)
            except SaqsamError as error:
                raise RunError(str(error)) from None  # an exception with one argument travels
            images.append(len(chunk.items))
        return {"images": images}


def import_ray() -> Any:
    """The ``ray`` module with ``ray.data``.

    Raises:
        UsageError: it is not installed; the message names the extra.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    require_ray()
    import ray.data

    return ray


@contextmanager
def _session(ray: Any, cpus: int) -> Iterator[None]:
    """A Ray of our own that ends with the block, or the one that is running already."""
    if ray.is_initialized():
        yield
        return
    own: dict[str, Any] = {"num_cpus": max(cpus, _cores()), "include_dashboard": False}
    address = os.environ.get("RAY_ADDRESS")
    try:
        ray.init(
            **({} if address else own),
            configure_logging=True,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    except Exception as error:  # of a node that did not start in time Ray says no more than that
        ray.shutdown()
        hint = (
            f"see that a cluster answers at RAY_ADDRESS={address}"
            if address
            else "see that this machine allows local ports, try again when it is less busy"
        )
        raise RunError(
            f"Ray did not start ({type(error).__name__}: {_reason(error)[:200]}); {hint}, or use --on local"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _reason(error: BaseException) -> str:
    """The message of the error in the worker, without Ray's account of where it travelled."""
    cause = getattr(error, "cause", None) or error.__cause__
    if isinstance(cause, BaseException) and not isinstance(error, SaqsamError):
        return _reason(cause)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
