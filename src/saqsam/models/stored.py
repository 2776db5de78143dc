"""The tensors that make a model: its parameters, and the tables that its code keeps as buffers."""

from __future__ import annotations

from torch import Tensor

from saqsam.families.record import Model
from saqsam.modules.quantizer import Quantizer


def stored_tensors(model: Model) -> dict[str, Tensor]:
    """Every parameter and every stored buffer by its name, without what quantizers keep.

    A table that two modules share is there once, under its first name; one that two modules keep a copy of
    is there under both.
    """
    of_grids = {id(x) for part in model.modules() if isinstance(part, Quantizer) for x in part.buffers()}
    state = model.state_dict()
    buffers = {
        name: buffer for name, buffer in model.named_buffers() if id(buffer) not in of_grids and name in state
    }
    return {**dict(model.named_parameters()), **buffers}
