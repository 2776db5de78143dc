"""What a graph is built from: the integers and floats of a packed model, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from saqsam.errors import UsageError
from saqsam.families.sam_names import SamNames
from saqsam.grids.affine import Affine
from saqsam.grids.grid import Grid
from saqsam.grids.registry import find_grid
from saqsam.pack.file import PackedActivation, PackedModel, PackedWeight

if TYPE_CHECKING:
    from saqsam.graphs.graph import Array, Graph

EARLY = "interm_embeddings"
"""Of SAM-HQ's graphs, as its own export calls them: what they hold beside the embedding."""


@dataclass(frozen=True)
class Source:
    """A packed model with its configuration made easy to ask.

    Raises:
        UsageError: the model has an activation function that no SAM was published with, or an activation
            is on a grid that graphs cannot hold.
    """

    packed: PackedModel

    activations: ClassVar[Mapping[str, str]] = {
        "vision_config": "gelu",
        "prompt_encoder_config": "gelu",
        "mask_decoder_config": "relu",
    }
    """What is between the layers of each part, by its place in the configuration, as graphs have it."""

    def __post_init__(self) -> None:
        for site, grid in self.grids.items():
            if problem := grid.refuse_graph():
                raise UsageError(
                    f"{site} is on a {grid.name} grid, {problem}; quantize with a recipe of affine and log2 "
                    "grids, or run the packed file by `saqsam segment` as it is"
                )
        for part, expected in self.activations.items():
            found = self.part(part).get("hidden_act", expected)
            if found != expected:
                raise UsageError(
                    f"{part}.hidden_act is {found!r}; only {expected!r} can be exported, run the packed file "
                    "as it is"
                )

    def part(self, name: str) -> dict[str, Any]:
        """One of ``vision_config``, ``prompt_encoder_config``, ``mask_decoder_config``, or with a point
        between them a section of one."""
        found: dict[str, Any] = self.packed.config
        for section in name.split("."):
            found = found[section]
        return found

    @property
    def vision(self) -> dict[str, Any]:
        """Configuration of the image encoder."""
        return self.part("vision_config")

    @property
    def backbone(self) -> dict[str, Any]:
        """Configuration of its blocks."""
        return self.vision

    def window(self, index: int) -> int:
        """Side in tokens of what a block of a plain transformer attends within: a window, or the image."""
        side = int(self.backbone["window_size"])
        return self.grid if index in self.backbone["global_attn_indexes"] or not side else side

    @property
    def decoder(self) -> dict[str, Any]:
        """Configuration of the mask decoder."""
        return self.part("mask_decoder_config")

    @property
    def decoder_epsilon(self) -> float:
        """Added to the variance by the norms in the layers of the decoder's transformer."""
        return float(self.decoder["layer_norm_eps"])

    @property
    def iou_index(self) -> int:
        """Place of the IoU token among the decoder's; the tokens of the masks follow it."""
        return 0

    @property
    def names(self) -> SamNames:
        """Names of the parameters."""
        return SamNames.of(int(self.vision["num_hidden_layers"]), int(self.decoder["num_hidden_layers"]))

    @property
    def image_size(self) -> int:
        """Side of the model's square input in pixels."""
        return int(self.vision["image_size"])

    @property
    def grid(self) -> int:
        """Side of the embedding in tokens."""
        return self.image_size // int(self.backbone["patch_size"])

    @property
    def early_block(self) -> int | None:
        """Of SAM-HQ the block whose tokens the decoder reads beside the embedding, else ``None``."""
        if not self.has(f"{SamNames.hq_token}.weight"):
            return None
        return int(min(self.vision["global_attn_indexes"]))

    @property
    def pads(self) -> bool:
        """Whether pictures keep their shape in the model's input, padded, rather than being squashed."""
        return bool(self.vision.get("preprocessing", "sam") == "sam")

    def weight(self, path: str) -> PackedWeight | None:
        """The integer weight of a layer, or ``None`` where it stayed float."""
        return self.packed.weights.get(path)

    @cached_property
    def grids(self) -> dict[str, Grid]:
        """The grids of the activations by site."""
        return {site: _grid_of(packed) for site, packed in self.packed.activations.items()}

    def activation(self, site: str) -> Grid | None:
        """The grid of an activation, or ``None`` where it stays float."""
        return self.grids.get(site)

    def affine(self, site: str) -> Affine | None:
        """The grid of an activation if its values are one scale times whole steps, else ``None``."""
        grid = self.activation(site)
        return None if grid is None else grid.as_affine()

    def has(self, name: str) -> bool:
        """Whether there is a float parameter of this name."""
        return name in self.packed.rest

    def array(self, name: str) -> Array:
        """A float parameter in its stored type, float16 or float32."""
        found: Array = self.packed.rest[name].numpy()
        return found

    def parameter(self, graph: Graph, name: str) -> str:
        """A float parameter as a float32 value of the graph, stored in its own type."""
        return stored(graph, self.array(name))


def _grid_of(packed: PackedActivation) -> Grid:
    kind = find_grid(packed.grid)
    if kind is None:
        raise UsageError(f"no grid '{packed.grid}' is registered here; load what registers it first")
    return kind.from_packed(packed)


def stored(graph: Graph, array: Array) -> str:
    """A float array as a float32 value; float16 stays float16 in the file and is widened when it is read."""
    if array.dtype == np.float16:
        return graph.add("Cast", graph.constant(array, np.float16), to=1)
    return graph.constant(array, np.float32)


def codes_of(weight: PackedWeight) -> npt.NDArray[np.uint8]:
    """Codes of a linear layer or 1x1 convolution as ``(in, out)``, the way ``MatMul`` takes them."""
    return np.ascontiguousarray(weight.codes.numpy().reshape(len(weight.codes), -1).T)
