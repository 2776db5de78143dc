"""The part of a quantized SAM that the compressed-tensors format can say, as a directory in that format.

It knows linear layers: a weight in integers with a scale and a zero point for each output channel, and one
static affine grid for the layer's input. It has no logarithmic grids, no convolutions and no grids between
the products of an attention; a model that has those is refused, naming them, rather than written as
another model.

Layout ("pack-quantized"), for a linear layer ``(out, in)`` with ``b`` bits, all little-endian:

=====================  ==========================  ====================================================
tensor                 shape and type              content
=====================  ==========================  ====================================================
``weight_packed``      (out, ceil(in*b/32)) i32    each row's codes end to end, lowest bit first
``weight_scale``       (out, 1) f32
``weight_zero_point``  (ceil(out*b/32), 1) i32     all rows' zero points end to end
``weight_shape``       (2,) i64                    out, in
``input_scale``        (1,) f32                    only where the input is quantized
``input_zero_point``   (1,) i8                     counted from the middle of the grid, ``2**(b-1)``
=====================  ==========================  ====================================================
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from saqsam.drop_in.names import CONFIG, PROCESSOR
from saqsam.drop_in.settings import architecture_of, processor_settings, write_json
from saqsam.errors import UsageError
from saqsam.files import atomic_write
from saqsam.grids.affine import Affine
from saqsam.grids.registry import find_grid
from saqsam.models.attach import all_quantizers
from saqsam.models.lookup import layer_at
from saqsam.models.sites import INPUT, WEIGHT, Site
from saqsam.modules.layers import QuantLinear
from saqsam.modules.quantizer import Quantizer
from saqsam.pack.bits import pack
from saqsam.pack.contents import PackedModel, PackedWeight
from saqsam.pack.convert import plain_config, to_packed

if TYPE_CHECKING:
    from saqsam.sam import Sam

_WORD = 32  # bits
_SHOWN = 3


def write_compressed(sam: Sam, directory: str | Path) -> None:
    """Write a quantized model in the compressed-tensors format, for whoever has that library.

    Raises:
        UsageError: the model is float, or has sites that the format cannot express, which are named.
    """
    if sam.quantization is None:
        raise UsageError(f"{sam.name} is a float model: quantize it first, then export it")
    _check_expressible(sam)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    packed = to_packed(sam.model, sam.quantization, sam.records)
    config = plain_config(sam.model)
    config["architectures"] = [architecture_of(sam.model)]
    config["dtype"] = "float32"
    config["quantization_config"] = quantization_config(packed)
    with atomic_write(directory / "model.safetensors") as temporary:
        save_file(tensors(packed), temporary, metadata={"format": "pt"})
    write_json(directory / PROCESSOR, processor_settings(sam.model))
    write_json(directory / CONFIG, config)


def quantization_config(packed: PackedModel) -> dict[str, Any]:
    """Layers with the same bits of weight and input form a group; each is named by its path."""
    groups: dict[tuple[int, int], list[str]] = {}
    for path, weight in sorted(packed.weights.items()):
        grid = packed.activations.get(f"{path}:{INPUT}")
        groups.setdefault((weight.bits, 0 if grid is None else grid.bits), []).append(path)
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "ignore": [],
        "config_groups": {
            f"w{weight_bits}a{input_bits or 32}": {
                "targets": paths,
                "weights": _arguments(weight_bits, "channel"),
                "input_activations": _arguments(input_bits, "tensor") if input_bits else None,
                "format": "pack-quantized",
            }
            for (weight_bits, input_bits), paths in groups.items()
        },
    }


def tensors(packed: PackedModel) -> dict[str, Tensor]:
    """All tensors of the file by name; the float rest as it is stored in the packed file."""
    found = dict(packed.rest)
    for path, weight in packed.weights.items():
        found.update({f"{path}.{name}": tensor for name, tensor in _weight_tensors(weight).items()})
    for site, activation in packed.activations.items():
        kind = find_grid(activation.grid)
        grid = None if kind is None else kind.from_packed(activation).as_affine()
        if grid is None:
            raise UsageError(f"{site} is on a grid that compressed-tensors has no name for")
        path = site.removesuffix(f":{INPUT}")
        found.update({f"{path}.{name}": tensor for name, tensor in _input_tensors(grid).items()})
    return found


def _weight_tensors(weight: PackedWeight) -> dict[str, Tensor]:
    return {
        "weight_packed": _words(weight.codes, weight.bits),
        "weight_scale": weight.scale[:, None].contiguous(),
        "weight_zero_point": _words(weight.zero_point[None], weight.bits).T.contiguous(),
        "weight_shape": torch.tensor(weight.codes.shape),
    }


def _input_tensors(grid: Affine) -> dict[str, Tensor]:
    middle = 1 << (grid.bits - 1)
    return {
        "input_scale": grid.scale[None],
        "input_zero_point": (grid.zero_point - middle)[None].to(torch.int8),
    }


def _words(codes: Tensor, bits: int) -> Tensor:
    """``(rows, columns)`` uint8 codes -> ``(rows, ceil(columns*bits/32))`` int32, each row begins a word."""
    rows, columns = codes.shape
    padded = nn.functional.pad(
        codes, (0, -columns % _WORD)
    )  # 32 codes fill whole words, whatever their width
    words = pack(padded.contiguous(), bits).view(torch.int32).view(rows, -1)
    return words[:, : -(-columns * bits // _WORD)].contiguous()


def _arguments(bits: int, strategy: str) -> dict[str, Any]:
    return {"num_bits": bits, "type": "int", "symmetric": False, "strategy": strategy, "dynamic": False}


def _check_expressible(sam: Sam) -> None:
    quantizers = all_quantizers(sam.model)
    weights = {site.path for site in quantizers if site.role == WEIGHT}
    bad = {site: kind for site, grid in quantizers.items() if (kind := _foreign(sam, site, grid, weights))}
    if not bad:
        return
    kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(bad.values()).items())
    some = ", ".join(site.name for site in list(bad)[:_SHOWN]) + (", ..." if len(bad) > _SHOWN else "")
    raise UsageError(
        f"--format compressed-tensors: it cannot express {len(bad)} sites of this model: {kinds} ({some}). "
        f"Quantize again with {_settings(bad)}"
    )


def _foreign(sam: Sam, site: Site, quantizer: Quantizer, weights: set[str]) -> str:
    """Why the format cannot express a site; nothing if it can."""
    if site.role not in (WEIGHT, INPUT):
        return f"{site.role} tensors of attentions ({quantizer.kind.name} grid)"
    if not isinstance(layer_at(sam.model, site), QuantLinear):
        return f"{site.role} tensors of convolutions"
    if quantizer.grid.as_affine() is None:
        return f"{site.role} tensors on a {quantizer.kind.name} grid"
    return "" if site.path in weights else "inputs of layers with a float weight"


def _settings(bad: Iterable[Site]) -> str:
    """``--set`` options that leave these sites float."""
    patterns = {
        f"{site.path.rpartition('.')[0]}.*" if site.role == WEIGHT else f"*:{site.role}"
        for site in bad
        if site.role != INPUT
    }
    inputs = {site.name for site in bad if site.role == INPUT}
    patterns |= {name for name in inputs if not any(fnmatchcase(name, pattern) for pattern in patterns)}
    return " ".join(f"--set 'overrides.{pattern}.keep_float=true'" for pattern in sorted(patterns))
