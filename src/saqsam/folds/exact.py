"""Whether a recipe's folds leave a model as it was; where not, it is refused before work begins."""

from __future__ import annotations

from saqsam.errors import UsageError
from saqsam.families.record import (
    DECODER,
    ENCODER,
    EQUALISATION,
    KEY_CENTRING,
    QUERY_KEY_ROTATION,
    SIGN_FLIP,
    VALUE_FOLDS,
    Model,
)
from saqsam.families.registry import encoder_of, family_of
from saqsam.models.sites import attention_rows
from saqsam.recipe import Folds

_BOTH = (ENCODER, DECODER)
_NEEDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "bimodal_sign_flip": (SIGN_FLIP, (DECODER,)),
    "key_centring": (KEY_CENTRING, _BOTH),
    "query_key_equalisation": (EQUALISATION, (DECODER,)),
    "query_key_rotation": (QUERY_KEY_ROTATION, (DECODER,)),
    "encoder_query_key_rotation": (QUERY_KEY_ROTATION, (ENCODER,)),
    "value_output_scaling": (VALUE_FOLDS, _BOTH),
    "value_rotation": (VALUE_FOLDS, _BOTH),
}
"""Switch of a recipe -> what must be exact, and in attentions of which parts."""


def check_folds(model: Model, folds: Folds) -> None:
    """Each fold is applied in those attentions in which it is exact; there must be one.

    Args:
        model: attached or not.
        folds: the recipe's switches.

    Raises:
        UsageError: a fold is exact nowhere in this model; the message names its switch.
    """
    name = family_of(model).name
    for switch, (fold, parts) in _NEEDS.items():
        rows = [row for part in parts for row in attention_rows(model, part)]
        if getattr(folds, switch) and not any(fold in row.exact for row in rows):
            raise UsageError(
                f"folds.{switch}: in {name} there is no attention that it would leave as it was; "
                f"set folds.{switch}=false"
            )
    if folds.residual_rotation and not encoder_of(model).turns:
        raise UsageError(
            f"folds.residual_rotation: the encoder of {name} pools its residual stream, changes its width, "
            "begins it with a norm or hands out tokens of it, so it cannot be turned; set "
            "folds.residual_rotation=false"
        )
