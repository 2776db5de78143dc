"""What ``saqsam evaluate --task oriented`` and ``--task semantic`` have in common."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from saqsam.datasets.exif_words import AUTO
from saqsam.errors import UsageError

if TYPE_CHECKING:
    from saqsam.datasets.bad_entries import BadEntries
    from saqsam.sam import Sam

TASKS = ("instance", "oriented", "semantic")


@dataclass(frozen=True)
class TaskRequest:
    """What the command line asked for, the task's own options apart."""

    model: str
    images: Path
    annotations: Path
    limit: int | None
    device: str
    reference: str | None
    show_dir: Path | None
    json: bool
    bad: BadEntries
    exif: str = AUTO

    def drawn_beside(self) -> Sam | None:
        """The reference, loaded, if there is one to be drawn."""
        from saqsam import api

        return None if self.reference is None else api.load(self.reference, device=self.device)

    def drawn(self, names: Collection[str]) -> list[Path]:
        """The pictures of these names."""
        return [] if self.show_dir is None else [self.show_dir / name for name in sorted(names)]


def check_task(task: str, given: dict[str, tuple[str, bool]]) -> str:
    """The task, if it exists and every option given is one of its own.

    Args:
        task: its name.
        given: option to the task it belongs to, and whether it was used.

    Raises:
        UsageError: no such task, or an option of another.
    """
    if task not in TASKS:
        raise UsageError(f"--task {task}: expected {', '.join(TASKS)}")
    for option, (owner, used) in given.items():
        if used and task != owner:
            raise UsageError(f"{option} belongs to --task {owner}, not to --task {task}")
    return task
