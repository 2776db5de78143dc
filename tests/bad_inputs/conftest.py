"""Good weights and annotations to be broken, and how they are expected to be refused."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.bad_inputs.annotations import sound_document
from torch import Tensor
from transformers import SamModel

from saqsam.checkpoints.load import load_float
from saqsam.checkpoints.official import write_official
from saqsam.errors import CheckpointError


@pytest.fixture
def state(tiny_sam: SamModel, tmp_path: Path) -> OrderedDict[str, Tensor]:
    """A good official state dict, to be broken in one place."""
    write_official(tiny_sam, tmp_path / "good.pth")
    loaded: OrderedDict[str, Tensor] = torch.load(tmp_path / "good.pth", weights_only=True)
    (tmp_path / "good.pth").unlink()
    return loaded


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    """A good annotation file, its images beside it, to be broken in one place."""
    return sound_document(tmp_path)


@pytest.fixture
def refused() -> Callable[..., str]:
    """``refused(path, kind)``: the message with which a checkpoint is refused; it must help its reader."""

    def message_for(path: Path, kind: type[CheckpointError] = CheckpointError) -> str:
        with pytest.raises(kind) as caught:
            load_float(path)
        message = str(caught.value)
        assert caught.value.exit_code == 3
        assert str(path) in message
        assert "\n" not in message
        assert len(message) < 800
        assert caught.value.hint, f"does not say what to do: {message}"
        return message

    return message_for


@pytest.fixture
def attempt() -> Callable[[Path], CheckpointError | None]:
    """``attempt(path)``: the error of loading, where there is one."""

    def error_of(path: Path) -> CheckpointError | None:
        try:
            load_float(path)
        except CheckpointError as error:
            return error
        return None

    return error_of


@pytest.fixture
def bounded() -> Callable[..., AbstractContextManager[None]]:
    """``with bounded(megabytes, seconds)``: fails where more memory (peak) or time is taken."""
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")

    def kilobytes(name: str) -> int:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if name in line)

    @contextmanager
    def limits(megabytes: int = 200, seconds: float = 5.0) -> Iterator[None]:
        if not os.access(reset, os.W_OK):
            pytest.skip("this platform does not tell peak memory")
        reset.write_text("5")
        before, start = kilobytes("VmRSS"), time.process_time()
        yield
        assert time.process_time() - start < seconds
        assert (kilobytes("VmHWM") - before) // 1024 < megabytes

    return limits
