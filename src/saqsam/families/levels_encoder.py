"""What the image encoders of SAM 2 and 3 share: a neck of three levels, the finer two read by the decoder.

The coarsest level is the embedding that prompts are decoded on. The finer ones reach the decoder through two
convolutions of the decoder's that run once for an image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from saqsam.families import sam2_names as names
from saqsam.families.embedding import Embedding
from saqsam.families.record import Model, State

RunBlock = Callable[[nn.Module, Tensor], Tensor]


class LevelsEncoder(ABC):
    """See :class:`saqsam.families.record.Encoder`.

    Args:
        model: float or quantized, or a stand-in with the calls of one: then only :meth:`encode` works.
    """

    path = names.ENCODER_PATH
    neck_path = names.NECK
    turns = False
    kind: ClassVar[type[nn.Module]]
    """Class of the encoder, whose blocks can be called one by one."""

    def __init__(self, model: Model) -> None:
        self.model: Any = model
        self.module = cast(nn.Module, self.model.vision_encoder)

    @property
    @abstractmethod
    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks in order."""

    @abstractmethod
    def start(self, pixel_values: Tensor) -> Tensor:
        """``(B, 3, S, S)`` preprocessed pixels to the tokens ``(B, H, W, C)`` that the first block takes."""

    @abstractmethod
    def carry(self, index: int, state: State, x: Tensor) -> State:
        """The state after block ``index``."""

    @abstractmethod
    def finish(self, state: State) -> Embedding:
        """The embedding ``(B, C, g, g)`` with levels ``(B, C/8, 4g, 4g)`` and ``(B, C/4, 2g, 2g)``."""

    @property
    def neck(self) -> nn.Module:
        """What makes the levels."""
        return cast(nn.Module, self._parts.neck)

    @property
    def neck_parts(self) -> tuple[nn.Module, ...]:
        """The neck, and the decoder's two convolutions of the finer levels."""
        return self.neck, self.model.mask_decoder.conv_s0, self.model.mask_decoder.conv_s1

    def encode(self, pixel_values: Tensor) -> Embedding:
        """``(B, 3, S, S)`` to embeddings by the cheapest exact way, without the position codes of the neck,
        which only video reads."""
        if not isinstance(self.module, nn.Module):
            fine, middle, main = self.model.get_image_embeddings(pixel_values)
            return Embedding(main, (fine, middle))
        if not isinstance(self.module, self.kind):  # compiled as a whole: there are no blocks to call
            fine, middle, main = self.module(pixel_values).fpn_hidden_states
            return Embedding(main + self._no_memory(), self._features(fine, middle))
        return self._by_blocks(pixel_values, self._cheapest())

    def plain(self, pixel_values: Tensor) -> Embedding:
        """All blocks by their own ``forward``, then the neck."""
        return self._by_blocks(pixel_values, plain_block)

    def _cheapest(self) -> RunBlock:
        return plain_block

    def _by_blocks(self, pixel_values: Tensor, run: RunBlock) -> Embedding:
        state: State = (self.start(pixel_values),)
        for index, block in enumerate(self.blocks):
            state = self.carry(index, state, run(block, state[0]))
        return self.finish(state)

    @property
    def _parts(self) -> Any:
        return self.module

    def _features(self, fine: Tensor, middle: Tensor) -> tuple[Tensor, Tensor]:
        """What the decoder reads of the two finer levels."""
        decoder = self.model.mask_decoder
        return decoder.conv_s0(fine), decoder.conv_s1(middle)

    def _no_memory(self) -> Tensor:
        """What stands for earlier frames, of which an image has none."""
        return cast(Tensor, self.model.no_memory_embedding).reshape(1, -1, 1, 1)


def plain_block(block: nn.Module, x: Tensor) -> Tensor:
    """``block(x)``: ``(B, H, W, C)`` to the block's own output."""
    return cast(Tensor, block(x))
