"""The encoder on the kernels, and the decoder in ONNX Runtime, with the calls of ``SamModel``."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import onnx
from torch import Tensor

from saqsam.families.record import Config
from saqsam.graphs.decoder_model import SharedOnnxSam
from saqsam.graphs.model import Embeddings
from saqsam.native.encoder import NativeEncoder


class NativeEncoderSam(SharedOnnxSam):
    """As ``SharedOnnxSam``, with another encoder; arguments as of it."""

    def __init__(
        self,
        config: Config,
        encoder: NativeEncoder,
        decoder: onnx.ModelProto,
        no_mask: npt.NDArray[Any],
        name: str,
    ) -> None:
        super().__init__(config, None, decoder, no_mask, name)
        self.native = encoder

    def _encoded(self, pixel_values: Tensor) -> Embeddings:
        return Embeddings(self.native.encode(pixel_values.float()))
