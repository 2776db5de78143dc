"""What every format of ``saqsam export`` shares: its folder, and how equal it is to the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from saqsam.cli.arguments import make_directory

if TYPE_CHECKING:
    from saqsam.export.parity import Parity


@contextmanager
def folder_for_results(out: Path, force: bool) -> Iterator[None]:
    """The directory of ``--out``, made if need be; after an error an empty one is not left behind.

    Raises:
        UsageError: as of ``make_directory``.
    """
    existed = out.is_dir()
    make_directory(out, "--out", force)
    try:
        yield
    except BaseException:
        if not existed and out.is_dir() and not any(out.iterdir()):
            out.rmdir()
        raise


def masks_compared(parity: Parity) -> str:
    """How equal masks are, for people."""
    return (
        f"mask IoU with the model {parity.mask_iou:.4f} from pixels, "
        f"{parity.decoder_mask_iou:.4f} from its embedding ({parity.prompts} prompts); "
        f"the model with itself under rounding errors: {parity.repeatability:.4f}"
    )
