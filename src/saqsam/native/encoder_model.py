"""The encoder on the kernels, and the decoder in ONNX Runtime, with the calls of ``SamModel``."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import onnx
from torch import Tensor

from saqsam.families.record import Config
from saqsam.graphs.decoder_model import SharedOnnxSam
from saqsam.graphs.model import Embeddings
from saqsam.graphs.sam2_shared_model import SharedOnnxSam2
from saqsam.native.families import ImageEncoder, encoded, features_of


class NativeEncoderSam(SharedOnnxSam):
    """As ``SharedOnnxSam``, with another encoder; arguments as of it."""

    def __init__(
        self,
        config: Config,
        encoder: ImageEncoder,
        decoder: onnx.ModelProto,
        no_mask: npt.NDArray[Any],
        name: str,
    ) -> None:
        super().__init__(config, None, decoder, no_mask, name)
        self.native = encoder

    def _encoded(self, pixel_values: Tensor) -> Embeddings:
        found = encoded(self.native, pixel_values)
        return Embeddings(found.main, tuple(x.permute(0, 2, 3, 1) for x in found.features))


class NativeEncoderSam2(NativeEncoderSam, SharedOnnxSam2):
    """The same with the calls of ``Sam2Model``."""

    def get_image_embeddings(self, pixel_values: Tensor) -> list[Tensor]:
        """As of ``OnnxSam2``."""
        self.check_pixels(pixel_values)
        return features_of(self.native, pixel_values)
