"""What an image encoder makes of images, of one tensor or several: all that a decoder needs of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_AT_MOST = 64


@dataclass(frozen=True)
class Embedding:
    """The embedding of B images.

    Attributes:
        main: ``(B, C, g, g)``, which prompts are decoded on.
        features: ``(B, ...)`` each, what else the family's decoder reads, such as finer levels of a pyramid.
    """

    main: Tensor
    features: tuple[Tensor, ...] = ()

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> Embedding:
        """From what ``tensors`` gave."""
        return cls(tensors[0], tuple(tensors[1:]))

    @classmethod
    def cat(cls, parts: Sequence[Embedding]) -> Embedding:
        """Embeddings of several images as one."""
        return cls.of([torch.cat(same) for same in zip(*(part.tensors for part in parts), strict=True)])

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them, the main one first."""
        return (self.main, *self.features)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.main.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the main tensor."""
        return self.main.dtype

    def __len__(self) -> int:
        return len(self.main)

    def map(self, change: Callable[[Tensor], Tensor]) -> Embedding:
        """The same with every tensor changed."""
        return Embedding.of([change(x) for x in self.tensors])

    def split(self) -> list[Embedding]:
        """Of B images, B embeddings of one image each."""
        return [Embedding.of(same) for same in zip(*(x.split(1) for x in self.tensors), strict=True)]

    def expand(self, count: int) -> Embedding:
        """Of one image, the same ``count`` times, without a copy."""
        return self.map(lambda x: x.expand(count, *x.shape[1:]))

    def repeat(self, counts: Tensor) -> Embedding:
        """Each image as many times as ``counts (B,)`` says, one after the other."""
        return self.map(lambda x: x.repeat_interleave(counts, dim=0))

    def to(self, device: torch.device) -> Embedding:
        """The same on another device."""
        return self.map(lambda x: x.to(device))

    def prompts_at_once(self) -> int:
        """How many prompts of one image to decode together.

        On a CPU about as many as keep one tensor of image positions within a core's share of the cache: more
        only wait for memory. An accelerator wants more work at a time.
        """
        floats = (2 if self.device.type == "cpu" else 64) << 20
        return min(_AT_MOST, max(1, floats // max(1, self.main[0].numel())))
