"""A ``transformers.SamModel`` that somebody else made, as the package's own loader would have made it."""

from __future__ import annotations

import copy
from functools import reduce
from typing import Any

import torch

from saqsam.errors import UsageError
from saqsam.families.record import Model
from saqsam.families.registry import family_of_config
from saqsam.modules.quantizer import Quantizer

_SHOWN = 3


def as_loaded(model: Model) -> Model:
    """A copy in float32 and eval mode, without gradients, on the same device; the original is left alone.

    Decoder layer norms use 1e-5 as in the published code, whatever ``transformers`` says, see ``load_float``.

    Raises:
        UsageError: it is quantized already, or its layers are not those of a plain SAM.
    """
    if any(isinstance(module, Quantizer) for module in model.modules()):
        raise UsageError("this Model is already quantized by saqsam; start from the float model")
    config: Any = copy.deepcopy(model.config)
    family = family_of_config(config)
    for section, values in family.config.published.items():
        for key, value in values.items():
            setattr(reduce(getattr, section, config), key, value)
    config._attn_implementation = config.vision_config._attn_implementation = "sdpa"
    with torch.device("meta"):
        plain: Model = family.modules().model_class(config)
    state = {
        name: tensor.detach().to(torch.float32, copy=True).contiguous()
        for name, tensor in model.state_dict().items()
        if not family.naming.is_unused(name)
    }
    strange = sorted(plain.state_dict().keys() ^ state.keys())
    if strange:
        names = ", ".join(strange[:_SHOWN]) + (", ..." if strange[_SHOWN:] else "")
        raise UsageError(
            f"this Model has other tensors than its configuration says ({names}); merge adapters and undo "
            "other quantization first, or save it and give its directory to saqsam.load"
        )
    for stored, twin in family.tied:
        if not torch.equal(state[stored], state[twin]):
            raise UsageError(
                f"this Model has two different tables '{stored}' and '{twin}', which are one in every "
                f"{family.name}; copy the first into the second"
            )
    plain.load_state_dict(state, strict=True, assign=True)
    family.modules().fill_tables(plain)
    plain.tie_weights()
    plain.eval()
    plain.requires_grad_(False)
    return plain
