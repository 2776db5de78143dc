"""A recipe: everything that decides how a float SAM becomes a quantized one, as data.

The dataclasses below are the only description of a recipe. YAML comments, help texts, documentation
and validation all come from their fields.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from saqsam.errors import RecipeError
from saqsam.grids.registry import grid_names
from saqsam.recipe.commented_yaml import to_yaml
from saqsam.recipe.learning import Reconstruct as Reconstruct
from saqsam.recipe.official_words import OBSERVERS
from saqsam.recipe.schema import Section, option
from saqsam.recipe.strict_yaml import parse_yaml

RangeMethod = Literal["minmax", "percentile", "mse"]

HALVES = {"encoder": "vision_encoder.*", "decoder": "mask_decoder.*"}
"""Patterns of all sites of a half, for ``overrides``."""
PCC_PERCENTILES = (
    *(0.85, 0.87, 0.88, 0.89, 0.90, 0.91, 0.92, 0.93, 0.94, 0.95, 0.96, 0.965, 0.97, 0.975, 0.98),
    *(0.983, 0.985, 0.987, 0.989, 0.99, 0.993, 0.995, 0.997, 0.999, 0.9993, 0.9995, 0.9997, 0.9999, 0.99999),
)
"""The 29 candidate percentiles of SAQ-SAM's clipping, most aggressive first."""


@dataclass(frozen=True)
class Bits(Section):
    """Bit widths of one half of the model."""

    weights: int = option("bits of every quantized weight", 4, minimum=2, maximum=8)
    activations: int = option(
        "bits of every quantized activation, attention maps included", 4, minimum=2, maximum=8
    )

    def __str__(self) -> str:
        return f"w{self.weights}a{self.activations}"


@dataclass(frozen=True)
class Ranges(Section):
    """How the interval [low, high] that the integers cover is chosen."""

    method: RangeMethod = option(
        "minmax covers every value seen; percentile cuts both tails; mse minimises the rounding error",
        "minmax",
        also=OBSERVERS,
    )
    percentile: float = option(
        "share of values kept below the upper and above the lower end (method percentile)",
        0.9999,
        minimum=0.5,
        maximum=1.0,
    )
    norm: float = option(
        "exponent p of the error mean |x - q(x)|^p (method mse)", 2.4, minimum=0.5, maximum=8.0
    )


@dataclass(frozen=True)
class ActivationGrids(Section):
    """Number formats made for what SAM's activations look like (AHCPTQ); affine is the ordinary one."""

    projections: Literal["affine", "grouped"] = option(
        "inputs of query, key and value projections and of the first layer of each MLP: affine, or grouped "
        "(CAG): channels of like range share one of a few scales and zero points",
        "affine",
    )
    groups: int = option("groups of channels at the end, at grouped sites", 4, minimum=1, maximum=256)
    mlp_hidden: Literal["affine", "hybrid"] = option(
        "input of the second layer of each MLP, after GELU or ReLU: affine, or hybrid (HLUQ): powers of two "
        "up to a knee, even steps above",
        "affine",
    )


@dataclass(frozen=True)
class Folds(Section):
    """Exact rewrites of the weights before quantization: the float outputs stay the same."""

    bimodal_sign_flip: bool = option(
        "flip the sign of query and key channels so that two-humped keys become one-humped "
        "(BIG of PTQ4SAM; token-to-image attentions)",
        False,
    )
    key_centring: bool = option("remove the constant part of every key channel, which softmax ignores", False)
    query_key_equalisation: bool = option(
        "scale query channels up and key channels down, or the reverse, to even out their ranges", False
    )
    value_output_scaling: bool = option(
        "move scale between the value and the output projection, channel by channel", False
    )
    value_rotation: bool = option(
        "rotate the values of every head; the output projection rotates them back", False
    )
    query_key_rotation: bool = option(
        "rotate queries and keys of every head of the mask decoder alike, which no score notices", False
    )
    encoder_query_key_rotation: bool = option(
        "the same in the image encoder, one rotation for all heads of a block and its relative positions",
        False,
    )
    residual_rotation: bool = option(
        "rotate the image encoder's residual stream, from the patches through all layer norms to the neck",
        False,
    )


@dataclass(frozen=True)
class Clip(Section):
    """Perceptual-Consistency Clipping (PCC of SAQ-SAM) of the decoder's queries and keys."""

    method: Literal["none", "pcc"] = option(
        "pcc clips queries and keys so that attention keeps its focus; none leaves their ranges alone",
        "none",
        also={"FFC": "pcc", "no": "none"},
    )
    focus_threshold: float = option(
        "a key is in a query's focus if its attention exceeds this share of the row's maximum",
        0.5,
        minimum=0.01,
        maximum=0.99,
    )
    sweeps: int = option("rounds of coordinate descent over the attentions", 2, minimum=1, maximum=10)
    images: int = option(
        "calibration images the choice is made on; 1 is the paper's setting", 4, minimum=1, maximum=1024
    )
    prompts: int = option("prompts used of each of these images", 4, minimum=1, maximum=1024)
    max_queries: int = option(
        "queries of one attention that are scored, spread evenly; image-side attentions have thousands",
        512,
        minimum=1,
        maximum=1_000_000,
    )
    percentiles: tuple[float, ...] = option(
        "candidate clips: p keeps the values between the quantiles 1 - p and p",
        PCC_PERCENTILES,
        minimum=0.5,
        maximum=1.0,
        ascending=True,
    )
    independent_bounds: bool = option("search the lower and the upper bound separately", False)


@dataclass(frozen=True)
class Mixed(Section):
    """Mixed precision: the same bits in sum, spent where the masks need them."""

    enabled: bool = option(
        "choose the bits of every site; weights keep their mean bits by elements, activations theirs by "
        "multiplications. The file's recipe lists the choice as overrides",
        False,
    )
    offsets: tuple[int, ...] = option(
        "what may be added to a site's bits; the result stays within 2 to 8",
        (-1, 1, 3),
        minimum=-6,
        maximum=6,
        ascending=True,
    )
    images: int = option("calibration images that sites are measured on", 8, minimum=1, maximum=1024)
    probes: int = option("random directions of each image's masks", 2, minimum=1, maximum=1024)


@dataclass(frozen=True)
class Calibration(Section):
    """Which data the ranges are measured on."""

    images: int = option("images, drawn from the folder", 32, minimum=1, maximum=100_000)
    prompts: int = option("prompts used of each image", 16, minimum=1, maximum=1024)
    seed: int = option("seed of the draw", 0, minimum=0, maximum=2**32 - 1)


@dataclass(frozen=True)
class Override(Section):
    """What is different at the sites that one pattern matches; null keeps the recipe's choice."""

    bits: int | None = option("bits at these sites", None, minimum=2, maximum=8)
    grid: str | None = option(
        "grid at these sites; log2 is for attention maps, grouped and hybrid for inputs of linear layers",
        None,
        choices=grid_names,
    )
    ranges: Ranges | None = option("range rule at these sites: method, percentile, norm", None)
    keep_float: bool = option("leave these sites unquantized", False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep_float and (self.bits, self.grid, self.ranges) != (None, None, None):
            raise RecipeError(
                "overrides: keep_float leaves a site unquantized; drop its bits, grid and ranges"
            )


@dataclass(frozen=True)
class Recipe(Section):
    """Everything that decides how a float SAM is quantized.

    Raises:
        RecipeError: on construction, if any value has the wrong type or is out of bounds.
    """

    name: str = option("the recipe's name, stored in every file it makes")
    description: str = option("one line about the method", "")
    encoder: Bits = option("image encoder and neck", default_factory=Bits)
    decoder: Bits = option("two-way transformer of the mask decoder", default_factory=Bits)
    attention_grid: Literal["affine", "log2"] = option(
        "grid of the attention maps after softmax: affine, or log2 (AGQ of PTQ4SAM)",
        "affine",
        also={"AGQ": "log2"},
    )
    weight_ranges: Ranges = option(
        "ranges of the weights, one for each output channel", default_factory=Ranges
    )
    activation_ranges: Ranges = option(
        "ranges of the activations, one for each tensor", default_factory=Ranges
    )
    activation_grids: ActivationGrids = option(
        "number formats of the activations", default_factory=ActivationGrids
    )
    folds: Folds = option("exact rewrites made before quantization", default_factory=Folds)
    clip: Clip = option("clipping of decoder queries and keys", default_factory=Clip)
    reconstruct: Reconstruct = option("learning of rounding and scales", default_factory=Reconstruct)
    mixed: Mixed = option("mixed precision", default_factory=Mixed)
    calibration: Calibration = option("data the ranges are measured on", default_factory=Calibration)
    rel_pos_query: Literal["quantized", "float"] = option(
        "which query meets the encoder's relative positions: quantized (PTQ4SAM) or float (SAQ-SAM)",
        "quantized",
    )
    float_dtype: Literal["float16", "float32"] = option(
        "how parameters that are not quantized are stored, and evaluated", "float16"
    )
    overrides: Mapping[str, Override] = option(
        "exceptions by site: shell-style pattern on the full name, such as "
        "'vision_encoder.layers.0.attn.qkv:weight'; where several match, the last one wins",
        default_factory=dict,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.name.strip() or len(self.name) > 80:
            raise RecipeError("name: expected 1 to 80 characters")

    @property
    def bits(self) -> str:
        """Both widths in short: ``w4a4``, or ``w8a8/w4a4`` where encoder and decoder differ.

        ``w4a4 mixed``: on the average, by ``mixed``. ``w4a4/float``: the decoder is left float as a whole.
        """
        encoder, decoder = self._half("encoder"), self._half("decoder")
        short = encoder if encoder == decoder else f"{encoder}/{decoder}"
        return f"{short} mixed" if self.mixed.enabled else short

    def _half(self, half: Literal["encoder", "decoder"]) -> str:
        """Bits of one half in short, or ``float`` where all of it is left so and nothing says otherwise."""
        whole, prefix = HALVES[half], HALVES[half].removesuffix("*")
        is_float = whole in self.overrides and self.overrides[whole].keep_float
        excepted = any(pattern.startswith(prefix) and pattern != whole for pattern in self.overrides)
        return "float" if is_float and not excepted else str(getattr(self, half))

    @property
    def recipe_hash(self) -> str:
        """sha256 (hex) of the canonical JSON of :meth:`to_dict`: sorted keys, no spaces."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, every key present."""
        return self.to_plain()

    @classmethod
    def from_dict(cls, data: Any) -> Recipe:
        """The inverse of :meth:`to_dict`; absent keys take their defaults.

        Raises:
            RecipeError: unknown key, missing name, wrong type, value out of bounds.
        """
        return cls.from_plain(data)

    def to_yaml(self) -> str:
        """The whole recipe as YAML, each key with its meaning as a comment."""
        return to_yaml(self)

    @classmethod
    def from_yaml(cls, text: str, where: str = "recipe") -> Recipe:
        """Parse YAML text; ``where`` names it in messages.

        Raises:
            RecipeError: not plain YAML, or not a recipe.
        """
        return cls.from_dict(parse_yaml(text, where))
