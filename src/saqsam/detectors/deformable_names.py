"""Where the layers of deformable transformers lie in published files, by their names in ``transformers``.

H-Deformable-DETR and DINO share the naming of the original Deformable DETR.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from saqsam.detectors.weights import Row

_ENCODER = {
    "self_attn_layer_norm": "norm1",
    "mlp.fc1": "linear1",
    "mlp.fc2": "linear2",
    "final_layer_norm": "norm2",
}
_DECODER = {
    "encoder_attn_layer_norm": "norm1",
    "self_attn_layer_norm": "norm2",
    "mlp.fc1": "linear1",
    "mlp.fc2": "linear2",
    "final_layer_norm": "norm3",
    "self_attn.o_proj": "self_attn.out_proj",
    "encoder_attn.sampling_offsets": "cross_attn.sampling_offsets",
    "encoder_attn.attention_weights": "cross_attn.attention_weights",
    "encoder_attn.value_proj": "cross_attn.value_proj",
    "encoder_attn.output_proj": "cross_attn.output_proj",
}
_QKV = ("q_proj", "k_proj", "v_proj")
_PARTED = re.compile(r"(?P<module>.+)\.(?P<leaf>weight|bias)")


def split(name: str) -> tuple[str, str]:
    """``a.b.weight`` as ``a.b`` and ``weight``; a bare parameter has no leaf."""
    found = _PARTED.fullmatch(name)
    return (found["module"], found["leaf"]) if found else (name, "")


def joined(module: str, leaf: str) -> str:
    """The inverse of :func:`split`."""
    return f"{module}.{leaf}" if leaf else module


def renamed(name: str, names: Mapping[str, str]) -> str:
    """A name with its module replaced, where ``names`` has another for it."""
    module, leaf = split(name)
    return joined(names.get(module, module), leaf)


def encoder_row(name: str) -> Row:
    """A tensor of ``DeformableDetrEncoder``, such as ``layers.0.mlp.fc1.weight``."""
    layers, index, rest = name.split(".", 2)
    return Row(f"transformer.encoder.{layers}.{index}.{renamed(rest, _ENCODER)}")


def decoder_row(name: str) -> Row:
    """A tensor of the decoder's layers, such as ``layers.0.self_attn.q_proj.weight``.

    Published files keep the query, key and value weights of self-attention in one tensor.
    """
    layers, index, rest = name.split(".", 2)
    start = f"transformer.decoder.{layers}.{index}"
    module, leaf = split(rest)
    attention, _, projection = module.rpartition(".")
    if attention == "self_attn" and projection in _QKV:
        return Row(f"{start}.self_attn.in_proj_{leaf}", part=_QKV.index(projection), parts=3)
    return Row(f"{start}.{renamed(rest, _DECODER)}")
