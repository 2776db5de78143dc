"""Other projects' quantizers on the float model, each behind the calls of ``SamModel``.

A builder takes the float model and calibration images with their boxes, and gives a model to evaluate and
the bytes of what it would ship. ONNX Runtime and OpenVINO start from saqsam's own float graphs, so that all
compute the same function; decoders are calibrated on the float encoder's embeddings, one box at a time.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import SamModel
from transformers.models.sam.modeling_sam import SamLayerNorm

from saqsam.calibrate.images import CalibrationImage
from saqsam.families.framing import preprocess
from saqsam.graphs.build import OPSETS, build_graphs
from saqsam.graphs.model import OnnxSam
from saqsam.graphs.portable import Portable
from saqsam.graphs.session import open_session
from saqsam.images.files import open_image
from saqsam.pack.convert import plain_config
from saqsam.pack.file import PackedModel
from saqsam.segment.predictor import decode, embed

PARTS = ("encoder", "decoder")
FLOAT = ("prompt_encoder", "vision_encoder.patch_embed", "mask_decoder.upscale", "mask_decoder.heads")
"""Scopes of the graphs' nodes that saqsam leaves float."""


@dataclass(frozen=True)
class Calibration:
    """The float model, its graphs, and what quantizers may look at.

    Attributes:
        model: float.
        images: with their boxes.
        directory: for files.
    """

    model: SamModel
    images: list[CalibrationImage]
    directory: Path

    @cached_property
    def graphs(self) -> dict[str, Path]:
        """ONNX files of the float encoder and decoder."""
        rest = {name: value.detach().float() for name, value in self.model.named_parameters()}
        packed = PackedModel(plain_config(self.model), {}, {}, {}, rest, {})
        files = {part: self.directory / f"float-{part}.onnx" for part in PARTS}
        for part, graph in zip(
            PARTS, build_graphs(packed, OPSETS[0], Portable, full_size=False), strict=True
        ):
            files[part].write_bytes(graph.SerializeToString())
        return files

    @cached_property
    def folded(self) -> dict[str, Path]:
        """The same after the pass that ONNX Runtime asks for before static quantization."""
        from onnxruntime.quantization.shape_inference import quant_pre_process

        files = {part: self.directory / f"folded-{part}.onnx" for part in PARTS}
        for part, file in files.items():
            quant_pre_process(self.graphs[part], file, skip_symbolic_shape=True)
        return files

    @cached_property
    def feeds(self) -> dict[str, list[dict[str, Any]]]:
        """Inputs by part: an image each for the encoder, a box each for the decoder."""
        found: dict[str, list[dict[str, Any]]] = {part: [] for part in PARTS}
        seen = Watched(self.model.config, found["decoder"])
        for image in self.images:
            pixel_values, frame = preprocess(self.model, open_image(image.path).pixels)
            found["encoder"].append({"images": pixel_values.numpy()})
            embedding = embed(self.model, pixel_values)
            for index in range(len(image.prompts)):
                decode(seen, embedding, image.prompts[index : index + 1], frame)
        return found


class Watched(OnnxSam):
    """Keeps what the decoder's graph would be given, and answers zeros."""

    def __init__(self, config: Any, feeds: list[dict[str, Any]]) -> None:
        self.config, self.feeds = config, feeds

    def decode(
        self,
        embedding: Tensor,
        coords: Tensor,
        labels: Tensor,
        mask: Tensor | None = None,
        kept: slice = slice(None),
    ) -> tuple[Tensor, Tensor]:
        """As of ``OnnxSam``."""
        low, outputs = 4 * embedding.shape[-1], 1 + self.config.mask_decoder_config.num_multimask_outputs
        self.feeds.append(
            {
                "image_embeddings": embedding.numpy(),
                "point_coords": coords.numpy(),
                "point_labels": labels.numpy(),
                "mask_input": torch.zeros(1, 1, low, low).numpy(),
                "has_mask_input": torch.zeros(1).numpy(),
                "mask_slots": torch.arange(outputs)[kept].numpy(),
            }
        )
        return torch.zeros(len(coords), outputs, low, low)[:, kept], torch.zeros(len(coords), outputs)[
            :, kept
        ]


Built = tuple[Any, int]
"""A model with the calls of ``SamModel``, and bytes of its files."""


def onnxruntime_float(given: Calibration) -> Built:
    """The float graphs in ONNX Runtime."""
    return _onnx_sam(given, given.graphs)


def onnxruntime_dynamic(given: Calibration) -> Built:
    """Linear layers: int8 weights per channel, activations by their range at run time."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    files = {part: given.directory / f"dynamic-{part}.onnx" for part in PARTS}
    for part, file in files.items():
        quantize_dynamic(
            given.graphs[part],
            file,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=_float_nodes(given.graphs[part]),
            extra_options={"MatMulConstBOnly": True},
        )
    return _onnx_sam(given, files)


def onnxruntime_static(method: str, everything: bool = False) -> Callable[[Calibration], Built]:
    """QDQ graphs, unsigned activations and signed weights per channel.

    Args:
        method: ``MinMax``, ``Entropy`` or ``Percentile``.
        everything: all operators the tool quantizes by default, in every layer; otherwise products in the
            layers that saqsam quantizes, those of attention among them.
    """

    def build(given: Calibration) -> Built:
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

        name = f"{method}-{'all' if everything else 'same'}"
        files = {part: given.directory / f"static-{name}-{part}.onnx" for part in PARTS}
        for part, file in files.items():
            quantize_static(
                given.folded[part],
                file,
                _Reader(given.feeds[part]),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=None if everything else ["MatMul", "Gemm", "Conv"],
                nodes_to_exclude=[] if everything else _float_nodes(given.folded[part]),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=getattr(CalibrationMethod, method),
            )
        return _onnx_sam(given, files)

    return build


class _Reader:
    """What ``quantize_static`` reads inputs from."""

    def __init__(self, feeds: list[dict[str, Any]]) -> None:
        self._feeds: Iterator[dict[str, Any]] = iter(feeds)

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


def _float_nodes(file: Path) -> list[str]:
    import onnx

    return [node.name for node in onnx.load(file).graph.node if node.name.startswith(FLOAT)]


def _onnx_sam(given: Calibration, files: dict[str, Path]) -> Built:
    sessions = [open_session(files[part], files[part].name) for part in PARTS]
    size = sum(file.stat().st_size for file in files.values())
    return OnnxSam(given.model.config, sessions[0], sessions[1], "onnxruntime"), size


def openvino_float(given: Calibration) -> Built:
    """The float graphs in OpenVINO."""
    return _openvino_sam(given, lambda model, part: model, "float")


def openvino_int8(everything: bool) -> Callable[[Calibration], Built]:
    """NNCF's post-training quantization with its scheme for transformers; ``everything`` as above."""

    def quantized(model: Any, part: str, given: Calibration) -> Any:
        import nncf

        scope = None
        if not everything:
            scope = nncf.IgnoredScope(patterns=[f"{re.escape(name)}.*" for name in FLOAT], validate=False)
        return nncf.quantize(
            model,
            nncf.Dataset(given.feeds[part]),
            subset_size=len(given.feeds[part]),
            model_type=nncf.ModelType.TRANSFORMER,
            ignored_scope=scope,
        )

    name = f"int8-{'all' if everything else 'same'}"
    return lambda given: _openvino_sam(given, lambda model, part: quantized(model, part, given), name)


def openvino_weights(mode: str, group: int) -> Callable[[Calibration], Built]:
    """NNCF's compression of weights alone; ``group`` weights share a scale, -1 for a whole channel."""

    def compressed(model: Any) -> Any:
        import nncf

        settings: dict[str, Any] = {}
        if not mode.startswith("INT8"):
            fallback = nncf.GroupSizeFallbackMode.ADJUST  # smaller groups where a width is no multiple
            advanced = nncf.AdvancedCompressionParameters(group_size_fallback_mode=fallback)
            settings = {
                "group_size": group,
                "ratio": 1.0,
                "all_layers": True,
                "advanced_parameters": advanced,
            }
        return nncf.compress_weights(model, mode=nncf.CompressWeightsMode[mode], **settings)

    return lambda given: _openvino_sam(given, lambda model, part: compressed(model), f"{mode}-{group}")


class _OpenVino:
    """A compiled model with the calls of an ONNX Runtime session."""

    def __init__(self, model: Any) -> None:
        import openvino

        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # compressed weights alone, activations stay float
        }
        self._compiled = openvino.compile_model(model, "CPU", settings)

    def get_inputs(self) -> list[Any]:
        return [_Named(one.get_any_name()) for one in self._compiled.inputs]

    def run(self, outputs: list[str] | None, inputs: dict[str, Any]) -> list[Any]:
        found = self._compiled(inputs)
        names = outputs or [one.get_any_name() for one in self._compiled.outputs]
        return [found[name].copy() for name in names]


@dataclass(frozen=True)
class _Named:
    name: str


def _openvino_sam(given: Calibration, change: Callable[[Any, str], Any], name: str) -> Built:
    import openvino

    sessions: list[Any] = []
    size = 0
    for part in PARTS:
        file = given.directory / f"openvino-{name}-{part}.xml"
        model = change(openvino.convert_model(given.graphs[part]), part)
        openvino.save_model(model, file, compress_to_fp16=False)
        size += sum(one.stat().st_size for one in (file, file.with_suffix(".bin")))
        sessions.append(_OpenVino(openvino.Core().read_model(file)))
    return OnnxSam(given.model.config, sessions[0], sessions[1], "openvino"), size


class _Plain:
    """A module with the calls of ``SamModel``, whose decoder is called as a whole."""

    mask_decoder = None
    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, model: SamModel) -> None:
        self.config, self.vision_encoder, self._model = model.config, model.vision_encoder, model

    def __call__(self, **inputs: Any) -> Any:
        return self._model(**inputs)


def quanto(weights: str, activations: str | None = None) -> Callable[[Calibration], Built]:
    """optimum-quanto's layers in the PyTorch model; types such as ``qint8``."""

    def build(given: Calibration) -> Built:
        from optimum import quanto as library

        model = copy.deepcopy(given.model)
        kinds = library.qtypes
        # Its layer norm has no channels-first form, which SAM's has.
        norms = [name for name, module in model.named_modules() if isinstance(module, SamLayerNorm)]
        library.quantize(
            model,
            weights=kinds[weights],
            activations=None if activations is None else kinds[activations],
            exclude=norms,
        )
        plain = _Plain(model)
        if activations is not None:
            with library.Calibration():
                for image in given.images:
                    pixel_values, frame = preprocess(model, open_image(image.path).pixels)
                    decode(plain, embed(plain, pixel_values), image.prompts, frame)
        library.freeze(model)
        file = given.directory / f"quanto-{weights}-{activations}.pt"
        torch.save(model.state_dict(), file)
        return plain, file.stat().st_size

    return build
