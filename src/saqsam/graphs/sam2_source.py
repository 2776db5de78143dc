"""What a SAM 2's graphs are built from; of a SAM 3, what is of SAM 2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from saqsam.families import sam2_names as names
from saqsam.families.sam2_names import BlockNames
from saqsam.families.sam_names import DecoderLayerNames, SamNames
from saqsam.graphs.source import Source

_DECODER_EPSILON = 1e-5
_STRIDE, _PATCH = 4, 16
"""Pixels of a side of a token in the first stage, and of one of the embedding."""


@dataclass(frozen=True)
class HieraBlock:
    """One block of the image encoder.

    Attributes:
        names: where its parameters are.
        stage: from 0.
        grid: side of the tokens that it takes.
        window: side of a window of them, ``grid`` where attention is global.
        channels, width: of what it takes, and of what it makes.
        heads: of its attention.
        pools: whether queries and residual are pooled two by two.
        ends: whether its stage ends with it.
    """

    names: BlockNames
    stage: int
    grid: int
    window: int
    channels: int
    width: int
    heads: int
    pools: bool
    ends: bool


@dataclass(frozen=True)
class LevelsSource(Source):
    """See :class:`Source`; of a family with SAM 2's decoder, whose encoder's blocks are described one level
    deeper in the configuration."""

    activations: ClassVar[Mapping[str, str]] = {
        "vision_config.backbone_config": "gelu",
        "prompt_encoder_config": "gelu",
    }

    @property
    def backbone(self) -> dict[str, Any]:
        """Configuration of the encoder's blocks."""
        return self.part("vision_config.backbone_config")

    @property
    def image_size(self) -> int:
        """Side of the model's square input in pixels."""
        side = self.backbone["image_size"]
        return int(side if isinstance(side, int) else side[0])

    @property
    def names(self) -> SamNames:
        """Names of the parameters of prompts and decoder; those of the encoder are in ``blocks``."""
        layers = [
            names.DecoderLayerNames.of(index) for index in range(int(self.decoder["num_hidden_layers"]))
        ]
        return SamNames(
            (),
            tuple(map(_layer_names, layers)),
            output_tokens=names.OUTPUT_TOKENS,
            final_attention=names.FINAL_ATTENTION,
        )

    @property
    def decoder_epsilon(self) -> float:
        """Of norms that have no setting."""
        return _DECODER_EPSILON

    @property
    def iou_index(self) -> int:
        """Before it is the token of the object score."""
        return 1

    @property
    def early_block(self) -> None:
        """Stages go through the neck before they are read."""
        return None

    @property
    def pads(self) -> bool:
        """Pictures are squashed."""
        return False


@dataclass(frozen=True)
class Sam2Source(LevelsSource):
    """With the blocks of Hiera."""

    @property
    def grid(self) -> int:
        """Side of the embedding in tokens."""
        return self.image_size // _PATCH

    @cached_property
    def blocks(self) -> tuple[HieraBlock, ...]:
        """All blocks in order."""
        config, found = self.backbone, list[HieraBlock]()
        windows, widths = config["window_size_per_stage"], config["embed_dim_per_stage"]
        for stage, count in enumerate(config["blocks_per_stage"]):
            for place in range(count):
                index, pools = len(found), stage > 0 and place == 0
                grid = self.image_size // _STRIDE >> (stage - pools)
                everywhere = index in config["global_attention_blocks"]
                found.append(
                    HieraBlock(
                        names=BlockNames.of(index, pooled=pools),
                        stage=stage,
                        grid=grid,
                        window=grid if everywhere else int(windows[stage - pools]),
                        channels=int(widths[stage - pools]),
                        width=int(widths[stage]),
                        heads=int(config["num_attention_heads_per_stage"][stage]),
                        pools=pools,
                        ends=place + 1 == count,
                    )
                )
        return tuple(found)


def _layer_names(layer: names.DecoderLayerNames) -> DecoderLayerNames:
    path, mlp = layer.path, f"{layer.path}.mlp"
    first, second, third, fourth = layer.norms
    return DecoderLayerNames(
        path, *layer.attentions, (first, second, third, fourth), mlp, layer.mlp_in, layer.mlp_out
    )
