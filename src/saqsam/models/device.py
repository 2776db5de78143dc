"""Whether a torch device can be computed on here."""

from __future__ import annotations

import torch

from saqsam.errors import UsageError


def check_device(device: str) -> None:
    """Refuse a device before anything is read for it.

    Raises:
        UsageError: this machine or this torch has no such device, or it holds no values, as ``meta``.
    """
    try:
        usable = torch.empty(0, device=device).device.type != "meta"
        reason = "it holds no values"
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        usable, reason = False, (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    if not usable:
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        instead = "cpu" if found is None else f"cpu or {found.type}"
        raise UsageError(f"device '{device}': cannot be used here ({reason}); give {instead}")
