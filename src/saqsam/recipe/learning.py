"""The section of a recipe that says what is learned, against which loss, for how long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from saqsam.errors import RecipeError
from saqsam.recipe.official_words import OBJECTIVES, UNITS
from saqsam.recipe.schema import Section, option

Objective = Literal["none", "local", "par"]


@dataclass(frozen=True)
class Reconstruct(Section):
    """Learning of weight rounding and activation scales, unit by unit, against the float model."""

    encoder: Objective = option(
        "loss of the image encoder: none does not learn, local compares outputs of the unit, par also "
        "compares what the mask decoder makes of them (SAQ-SAM's prompt-aware reconstruction)",
        "none",
        also=OBJECTIVES,
    )
    decoder: Objective = option(
        "loss of the mask decoder: as encoder; par also compares the final prompt tokens",
        "none",
        also=OBJECTIVES,
    )
    unit: Literal["stage", "block", "layer"] = option(
        "what is learned together in the encoder: the blocks up to each global one, single blocks, or single "
        "layers; in the decoder: whole layers, or single linear ones",
        "stage",
        also=UNITS,
    )
    rounding: Literal["nearest", "adaround", "gptq"] = option(
        "weights: nearest grid value, learned (AdaRound), or closed form with second-order correction (GPTQ)",
        "adaround",
    )
    scales: bool = option("learn activation scales, with steps relative to the scale", True)
    activations: Literal["quantized", "float"] = option(
        "what learning sees of activations; float is the setting of AdaRound and BRECQ", "quantized"
    )
    quantized_share: float = option(
        "probability with which learning sees an activation quantized, coin by coin (QDrop); 1 is always",
        0.5,
        minimum=0.0,
        maximum=1.0,
    )
    targets: Literal["float", "quantized-input"] = option(
        "what a unit should give: the float model's output, or what its float self makes of quantized input",
        "float",
    )
    iterations: int = option("steps for each unit", 2000, minimum=1, maximum=1_000_000)
    batch: int = option("images in each step", 1, minimum=1, maximum=1024)
    autocast: bool = option(
        "multiply matrices in bfloat16 while learning; grids and what is learned stay float32, and so does "
        "all that is measured or stored",
        False,
    )
    row_share: float = option(
        "share of an image's rows of tokens that each step looks at, by lot, in blocks of the encoder; needs "
        "the local loss of single blocks, of which it is an unbiased sample",
        1.0,
        minimum=0.01,
        maximum=1.0,
    )
    prompts: int = option("prompts used of each image", 16, minimum=1, maximum=16)
    clicks: float = option(
        "share of the boxes that learning asks as a click on the box's centre instead, so that it does not "
        "specialise in boxes",
        0.0,
        minimum=0.0,
        maximum=1.0,
    )
    weight_rate: float = option("Adam's rate for rounding", 1e-3, minimum=0.0, maximum=1.0)
    scale_rate: float = option(
        "Adam's rate for the logarithm of scales; falls to 0 along a cosine", 2e-3, minimum=0.0, maximum=1.0
    )
    bias_rate: float = option(
        "Adam's rate for biases, falling likewise; 0 leaves them alone, as the papers do",
        0.0,
        minimum=0.0,
        maximum=1.0,
    )
    whole_iterations: int = option(
        "steps at the end in which scales and biases of the whole model are learned together, by the masks "
        "that come out; weights stay as they were rounded",
        0,
        minimum=0,
        maximum=1_000_000,
    )
    whole_rate: float = option(
        "Adam's rate in these steps, for logarithms of scales and (if bias_rate is not 0) for biases",
        2e-3,
        minimum=0.0,
        maximum=1.0,
    )
    prompt_weight: float = option("weight of the prompt-aware term (par)", 1.0, minimum=0.0, maximum=1e6)
    local_weight: float = option(
        "weight of the local term beside the prompt-aware one, both measured relative to their targets",
        0.1,
        minimum=0.0,
        maximum=1e6,
    )
    token_weight: float = option(
        "weight of prompt tokens beside image tokens in the decoder's local term",
        0.01,
        minimum=0.0,
        maximum=1e6,
    )
    rounding_weight: float = option(
        "weight of the term that makes each rounding decide; 0 leaves them undecided until the end",
        0.01,
        minimum=0.0,
        maximum=1e6,
    )
    beta_start: float = option("exponent of that term at first", 20.0, minimum=1.0, maximum=100.0)
    beta_end: float = option("exponent of that term at the end", 2.0, minimum=1.0, maximum=100.0)
    warm_up: float = option("share of the steps before that term begins", 0.2, minimum=0.0, maximum=1.0)

    tokens: int = option(
        "tokens of each image that single layers are learned on (unit layer, rounding gptq)",
        1024,
        minimum=1,
        maximum=1_000_000,
    )
    damping: float = option(
        "share of the mean that is added to the diagonal of second-order statistics (gptq)",
        0.01,
        minimum=0.0,
        maximum=10.0,
    )
    passes: Literal["layer", "unit"] = option(
        "closed form runs a unit again for every layer of it, so that each sees those before it rounded, or "
        "once for the whole unit, which is cheap and nearly as good (gptq)",
        "layer",
    )
    compensate: Literal["none", "encoder", "all"] = option(
        "where each weight first makes up for the error of its quantized input, and each bias for the mean "
        "error of its layer (gptq); weights then fit the calibration images, and lose on others",
        "none",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.unit == "layer" and "par" in (self.encoder, self.decoder):
            raise RecipeError("reconstruct: single layers have no prompt-aware loss; use a larger unit")
        if self.unit == "layer" and self.rounding == "gptq":
            raise RecipeError("reconstruct: gptq goes layer by layer inside its unit; use a larger unit")
        if self.passes == "unit" and (self.rounding != "gptq" or self.scales or self.bias_rate):
            raise RecipeError(
                "reconstruct: passes: unit is for closed form alone: rounding gptq, scales false, bias_rate 0"
            )
        if self.row_share < 1.0 and (self.unit, self.encoder) != ("block", "local"):
            raise RecipeError(
                "reconstruct: row_share is for losses in which every token counts for itself: unit block, "
                "encoder local"
            )
        if self.whole_iterations and (self.targets, self.activations) != ("float", "quantized"):
            raise RecipeError(
                "reconstruct: whole_iterations compares with the float model: targets must be float, "
                "and activations quantized"
            )

    @property
    def learns(self) -> bool:
        """Whether anything is learned at all."""
        return (self.encoder, self.decoder) != ("none", "none") or self.whole_iterations > 0
