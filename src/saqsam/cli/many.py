"""``--on``, ``--workers`` and ``--shards``: who works on a folder, and where finished images are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saqsam.errors import UsageError

if TYPE_CHECKING:
    from saqsam.cli.progress import Report
    from saqsam.many.merge import Merged
    from saqsam.many.run import Engine
    from saqsam.many.work import Item, Job

LOCAL, RAY = "local", "ray"
RESULTS = "results.json"

OnOption = Annotated[
    str,
    typer.Option(
        "--on",
        help="local: this process. ray: --workers processes with Ray Data, here or on a cluster.",
        metavar="local|ray",
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers", help="ray: processes, one for each GPU or slot of the CPU [2].", min=1, metavar="N"
    ),
]
ShardsOption = Annotated[
    str | None,
    typer.Option("--shards", help="Format of the shards in --out DIR [jsonl].", metavar="jsonl|parquet"),
]


@dataclass(frozen=True)
class Distribution:
    """Who works, and the kind of shards; made by :func:`distribution`."""

    on: str
    workers: int
    shards: str | None
    device: str

    def directory_or_file(self, out: Path) -> Path | None:
        """``out`` if it is to be a directory of shards; None if it is to be one file.

        Raises:
            UsageError: it has to be a directory and cannot be one.
        """
        shards_wanted = self.on == RAY or self.shards is not None
        return self.directory(out) if shards_wanted or out.is_dir() or not out.suffix else None

    def directory(self, out: Path) -> Path:
        """``out``, if it is or can become a directory of shards.

        Raises:
            UsageError: it cannot.
        """
        if out.suffix == ".json" or out.is_file():
            raise UsageError(f"--out {out}: shards are written into a directory; name one")
        if not out.absolute().parent.is_dir():
            raise UsageError(f"--out {out}: there is no directory {out.parent}; create it first")
        return out

    def run(
        self,
        job: Job,
        items: Sequence[Item],
        identity: Mapping[str, Any],
        directory: Path,
        force: bool,
        report: Report,
        stage: str,
    ) -> Merged:
        """Do what is missing in ``directory`` and merge; see ``saqsam.many.run.run_many``."""
        from saqsam.many.run import local, run_many

        engine: Engine = local
        if self.on == RAY:
            from saqsam.many.ray_workers import RayEngine

            engine = RayEngine(self.workers, self.device)
        return run_many(
            job,
            items,
            identity,
            directory,
            engine=engine,
            kind=self.shards or "jsonl",
            afresh=force,
            progress=lambda done, total: report(stage, done, total),
        )


def distribution(on: str, workers: int | None, shards: str | None, device: str) -> Distribution:
    """The options checked, before any model is loaded.

    Raises:
        UsageError: an option does not exist, needs another, or its library is not installed.
    """
    if on not in (LOCAL, RAY):
        raise UsageError(f"--on {on}: expected {LOCAL} or {RAY}")
    if on == LOCAL and workers is not None:
        raise UsageError("--workers needs --on ray; --on local is one process")
    if shards is not None:
        from saqsam.many.shards import check_kind

        check_kind(shards)
    if on == RAY:
        from saqsam.many.ray_workers import import_ray

        import_ray()
    return Distribution(on, workers or 2, shards, device)
