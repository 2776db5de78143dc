"""Paths of the modules of a ``transformers.Sam3TrackerModel``; its decoder's are SAM 2's."""

from __future__ import annotations

from dataclasses import dataclass

from saqsam.families.record import ENCODER, VALUE_FOLDS, Attention
from saqsam.families.sam2_names import NECK

_BACKBONE = "vision_encoder.backbone"
_ROTARY = frozenset((VALUE_FOLDS,))
"""Queries and keys are turned by their positions between projection and product, two channels at a time: a
constant is then another one at each position, and what mixes, flips or stretches single channels does not
commute with turning their pair."""

LEVELS = 3
"""Of the neck, the finest first; published files hold a fourth, coarser one, which prompts never reach."""
NECK_CONVOLUTIONS = tuple(
    f"{NECK}.fpn_layers.{level}.{name}" for level in range(LEVELS) for name in ("proj1", "proj2")
)
SCALE_LAYERS = tuple(f"{NECK}.fpn_layers.{level}.scale_layers" for level in range(LEVELS - 1))
PATCHES = f"{_BACKBONE}.embeddings.patch_embeddings"
POSITIONS = f"{_BACKBONE}.embeddings.position_embeddings"
FIRST_NORM = f"{_BACKBONE}.layer_norm"


def block_path(index: int) -> str:
    """One block of the image encoder."""
    return f"{_BACKBONE}.layers.{index}"


@dataclass(frozen=True)
class BlockNames:
    """One block: norm, attention, norm, MLP."""

    norms: tuple[str, str]
    attention: Attention
    mlp_in: str
    mlp_out: str

    @classmethod
    def of(cls, index: int) -> BlockNames:
        path = block_path(index)
        attention = f"{path}.attention"
        projections = tuple(f"{attention}.{name}" for name in ("q_proj", "k_proj", "v_proj"))
        return cls(
            (f"{path}.layer_norm1", f"{path}.layer_norm2"),
            Attention(attention, ENCODER, projections, f"{attention}.o_proj", exact=_ROTARY),
            f"{path}.mlp.fc1",
            f"{path}.mlp.fc2",
        )
