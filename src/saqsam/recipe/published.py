"""Recipes from the configuration files of the published code: PTQ4SAM's and SAQ-SAM's ``exp/*.yaml``.

Those files leave half of the method to command-line flags (``--FFC``, ``--recon_encoder`` and others), so
the flags are arguments here. What has no counterpart, or means something else, is said in notes.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saqsam.errors import RecipeError
from saqsam.recipe.fields import Recipe
from saqsam.recipe.official_words import FLAGS, OBJECTIVES, OBSERVERS, here
from saqsam.recipe.schema import kind_of, unknown_key
from saqsam.recipe.strict_yaml import read_yaml

_QUANTIZER_KEYS = ("quantizer", "observer", "bit", "symmetric", "ch_axis")
_RECON_KEYS = (
    *("batch_size", "scale_lr", "weight_lr", "warm_up", "weight", "iters", "iters_CAMS", "b_range"),
    *("keep_gpu", "round_mode", "drop_prob"),
)
_METHOD_KEYS = ("BIG", "AGQ", "global_num", "peak_distance", "peak_height", "threshold")
_FIXED = {"global_num": 128, "peak_distance": 32, "peak_height": 0.01}
_GRID_KEYS = ("cag", "group", "hluq")
"""AHCPTQ's, in a section of their own or beside PTQ4SAM's."""
_OBJECTIVES = {"none": "none", **OBJECTIVES}


def import_published(
    path: str | Path, *, ffc: bool = True, encoder: str | None = None, decoder: str | None = None
) -> tuple[Recipe, list[str]]:
    """A recipe from a published configuration file.

    Args:
        path: the YAML file.
        ffc: whether ``--FFC`` (PCC clipping) was given; PTQ4SAM's files know no clipping.
        encoder: value of ``--recon_encoder``; ``None``: ``CAMS`` for SAQ-SAM's files, ``ori`` for PTQ4SAM's.
        decoder: value of ``--recon_decoder``; ``None``: ``CLM`` or ``ori`` likewise.

    Returns:
        The recipe, and notes about everything that could not be carried over as it is.

    Raises:
        RecipeError: not such a file, an unknown key or flag, or a method that saqsam does not have.
    """
    data = _mapping(read_yaml(path), str(path))
    is_saq = "encoder_w_qconfig" in data
    parts = ("encoder_", "decoder_") if is_saq else ("",)
    tables = [f"{part}{kind}_qconfig" for part in parts for kind in "aw"]
    _known(data, (*tables, "calibrate", "recon", "ptq4sam", "ahcptq"), str(path))
    quantizers = {name: _section(data, name, _QUANTIZER_KEYS, path) for name in tables}
    recon = _section(data, "recon", _RECON_KEYS, path)
    method = _section(data, "ptq4sam", (*_METHOD_KEYS, *_GRID_KEYS), path)
    grids = {**method, **(_section(data, "ahcptq", _GRID_KEYS, path) if "ahcptq" in data else {})}
    plain: dict[str, Any] = {"name": Path(path).stem[:80], "description": f"from {Path(path).name}"[:900]}
    plain |= _quantization(quantizers, is_saq, path)
    plain["calibration"] = {"images": data.get("calibrate", 32)}
    plain["attention_grid"] = "log2" if method.get("AGQ") else "affine"
    plain["activation_grids"] = {
        "projections": "grouped" if grids.get("cag") else "affine",
        "groups": grids.get("group", 4),
        "mlp_hidden": "hybrid" if grids.get("hluq") else "affine",
    }
    plain["folds"] = {"bimodal_sign_flip": bool(method.get("BIG"))}
    if is_saq and ffc:
        plain["clip"] = {"method": "pcc", "images": 1, "focus_threshold": method.get("threshold", 0.5)}
    if is_saq:
        plain["rel_pos_query"] = "float"
    default = ("CAMS", "CLM") if is_saq else ("ori", "ori")
    flags = (encoder or default[0], decoder or default[1])
    plain["reconstruct"] = _reconstruct(recon, flags, path)
    try:
        return Recipe.from_dict(plain), _notes(recon, method, is_saq)
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error


def _quantization(quantizers: Mapping[str, Any], is_saq: bool, path: str | Path) -> dict[str, Any]:
    """Bits of both halves, and the range rule that both halves must share."""
    plain: dict[str, Any] = {}
    for half in ("encoder", "decoder"):
        prefix = f"{half}_" if is_saq else ""
        weights, activations = quantizers[f"{prefix}w_qconfig"], quantizers[f"{prefix}a_qconfig"]
        plain[half] = {"weights": weights.get("bit", 8), "activations": activations.get("bit", 8)}
    for kind, key in (("w", "weight_ranges"), ("a", "activation_ranges")):
        rules = {_rule(table, name, path) for name, table in quantizers.items() if f"{kind}_qconfig" in name}
        if len(rules) > 1:
            raise RecipeError(
                f"{path}: encoder and decoder have different {kind}_qconfig observers; "
                "import it with one of them and set the other half by 'overrides'"
            )
        plain[key] = {"method": rules.pop()}
    return plain


def _rule(table: Mapping[str, Any], name: str, path: str | Path) -> str:
    if table.get("symmetric"):
        raise RecipeError(f"{path}: {name}.symmetric is true; saqsam's grids are asymmetric, set it to false")
    observer = str(table.get("observer"))
    if observer not in OBSERVERS:
        near = difflib.get_close_matches(observer, OBSERVERS, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"known here are {', '.join(OBSERVERS)}"
        raise RecipeError(
            f"{path}: {name}.observer: '{observer[:60]}' is not an observer of that code; {hint}"
        )
    return OBSERVERS[observer]


def _reconstruct(recon: Mapping[str, Any], flags: tuple[str, str], path: str | Path) -> dict[str, Any]:
    for flag, value in zip(("encoder", "decoder"), flags, strict=True):
        if value not in _OBJECTIVES:
            raise RecipeError(f"--recon-{flag} {value}: expected one of {', '.join(_OBJECTIVES)}")
    encoder, decoder = (_OBJECTIVES[flag] for flag in flags)
    betas = recon.get("b_range", [20, 2])
    if not isinstance(betas, list) or len(betas) != 2:
        raise RecipeError(f"{path}: recon.b_range: expected two numbers, found {kind_of(betas)}")
    plain = {
        "encoder": encoder,
        "decoder": decoder,
        "unit": "stage" if encoder == "par" else "block",
        "targets": "quantized-input" if encoder == "par" else "float",
        "iterations": recon.get("iters_CAMS", recon.get("iters", 20000)),
        "batch": recon.get("batch_size", 1),
        "weight_rate": recon.get("weight_lr", 1e-3),
        "scale_rate": recon.get("scale_lr", 4e-5),
        "quantized_share": recon.get("drop_prob", 0.5),
        "rounding_weight": recon.get("weight", 0.01),
        "warm_up": recon.get("warm_up", 0.2),
        "beta_start": betas[0],
        "beta_end": betas[1],
    }
    return plain


def _notes(recon: Mapping[str, Any], method: Mapping[str, Any], is_saq: bool) -> list[str]:
    notes = ["recon.scale_lr was a step of the scale itself; here it is a step of its logarithm"]
    if is_saq:
        notes.append("the published code ignores recon.weight and leaves rounding undecided; here it decides")
        notes.append("the published code gives final attention 10,000 steps; here all units have the same")
    for key, value in _FIXED.items():
        if method.get(key, value) != value:
            notes.append(f"ptq4sam.{key} is {value} here and cannot be set")
    notes += [f"recon.{key} has no counterpart" for key in ("keep_gpu", "round_mode") if key in recon]
    return notes


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RecipeError(f"{where}: expected a mapping of keys, found {kind_of(value)}")
    return value


def _section(data: Mapping[str, Any], name: str, keys: tuple[str, ...], path: str | Path) -> dict[str, Any]:
    if name not in data:
        raise RecipeError(f"{path}: has no '{name}'; a configuration of PTQ4SAM or SAQ-SAM does")
    section = _mapping(data[name], f"{path}: {name}")
    _known(section, keys, f"{path}: {name}")
    return section


def _known(section: Mapping[str, Any], keys: tuple[str, ...], where: str) -> None:
    for key in section:
        if key not in keys:
            raise RecipeError(_unknown(f"{where}: {str(key)[:60]}", str(key), keys))


def _unknown(where: str, key: str, keys: tuple[str, ...]) -> str:
    """A key that is none of the file's: misspelt, in another section, or a flag of the test script."""
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.8)
    place = here(key)
    if place is None or near:
        return unknown_key(where, key, keys)
    kind = "a flag of the test script" if key in FLAGS else "a key of another section"
    return f"{where}: {kind}, not a key that belongs here; its place in a recipe: {place}"
