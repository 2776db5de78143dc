"""The models that come with the package: SAMs for scenes, with outliers, for photographs, and a SAM 2."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import cast

from safetensors.torch import load

from saqsam.errors import UsageError
from saqsam.families.record import Model
from saqsam.families.sam import SAM
from saqsam.families.sam2 import SAM2
from saqsam.shipped.names import EMBEDDED_NAMES
from saqsam.shipped.outliers import inject_outliers


def embedded_sam(name: str) -> Model:
    """Load an embedded model; nothing is downloaded.

    Args:
        name: "nano", trained on generated scenes (128-px input); "nano-outliers", whose outputs
            are those of nano bit for bit and whose decoder queries and keys reach about +-160;
            "small", trained on photographs (128-px input, wider and deeper); "nano-sam2", a SAM 2 for
            generated scenes (256-px input); "small-outliers" and "nano-sam2-outliers", which are to these
            what nano-outliers is to nano.

    Returns:
        A float32 ``SamModel``, or ``Sam2Model``, with eager attention, in eval mode, without gradients.

    Raises:
        UsageError: there is no embedded model of that name.
    """
    if name not in EMBEDDED_NAMES:
        known = ", ".join(EMBEDDED_NAMES)
        raise UsageError(f"{name}: no embedded model has this name. Embedded models: {known}")
    assets, stem = files("saqsam.shipped").joinpath("assets"), name.removesuffix("-outliers")
    family = SAM2 if stem == "nano-sam2" else SAM
    config = family.config_class(**json.loads(assets.joinpath(f"{stem}.json").read_text(encoding="utf-8")))
    model = cast(Model, family.modules().model_class._from_config(config, attn_implementation="eager"))
    state = load(assets.joinpath(f"{stem}.safetensors").read_bytes())
    for stored, twin in family.tied:
        state[twin] = state[stored]  # one table under two names, stored once
    model.load_state_dict({key: value.float() for key, value in state.items()})
    model.eval().requires_grad_(False)
    return inject_outliers(model) if name != stem else model
