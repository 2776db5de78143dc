"""What of a family's record is about files: sizes, what a configuration may say, how names tell it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from saqsam.images.frame import Preprocessing


@dataclass(frozen=True)
class Sizes:
    """What a configuration says of a model's inputs and outputs.

    Attributes:
        preprocessing: how it wants images.
        embedding: shapes of an image's embedding, the main one ``(C, g, g)`` first.
        low_res_side: of its masks and mask prompts in pixels.
        masks: number of masks of an ambiguous prompt.
        object_scores: whether it says how likely there is an object at all.
    """

    preprocessing: Preprocessing
    embedding: tuple[tuple[int, ...], ...]
    low_res_side: int
    masks: int = 3
    object_scores: bool = False


Check = Callable[[object], bool]
"""Whether a value of a configuration makes sense."""


@dataclass(frozen=True)
class ConfigRules:
    """What a family's configuration may say; see :func:`saqsam.checkpoints.config.checked_config`.

    Attributes:
        fields: checks by the path of a section, such as ``("vision_config", "backbone_config")``, and by key;
            no other key is taken from a file.
        published: values by the path of a section that the published code uses whatever the file says.
        idle: fields without effect on what a model computes, whatever section they are in.
        constants: values by the path of a section that ``transformers`` needs and no file has to give.
        within: ``model_type`` of a larger model that holds one of the family -> the section that is about it.
        problem: what is wrong between the values of a configuration, or ``None``.
        depth: the largest number of layers that a configuration asks for anywhere.
    """

    fields: Mapping[tuple[str, ...], Mapping[str, Check]]
    published: Mapping[tuple[str, ...], Mapping[str, Any]]
    problem: Callable[[Any], str | None]
    depth: Callable[[Any], int]
    idle: frozenset[str] = frozenset(("initializer_range", "scale"))
    constants: Mapping[tuple[str, ...], Mapping[str, Any]] = field(default_factory=dict)
    within: Mapping[str, str] = field(default_factory=dict)


Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of tensors by their ``transformers`` names."""
Parts = dict[str, dict[str, Any]]
"""Fields of a configuration by section."""


@dataclass(frozen=True)
class Naming:
    """How a family's files are told from others', and what is read from the shapes of their tensors.

    Attributes:
        marks: what a ``transformers`` name begins with in this family's models and in no other's; empty for
            the one family that has none.
        size_of: the name of the published size that tensors of these shapes have, or ``None``.
        parts: the fields of a configuration for tensors of these shapes, given values that win over them.
            Raises KeyError with the name of a tensor that is missing, ValueError where shapes contradict each
            other or do not tell enough.
        files: expression for the stems of official file names, whose group is a published size.
        give: advice on what to load, for messages.
        places: of each kind of file that holds more than the model, with its tensors in several places: what
            their names begin with there, the encoder's first, the mask decoder's second, and what becomes of
            that.
        unused: expression for names, after ``places``, of tensors that come with the model and do nothing.
    """

    marks: tuple[str, ...]
    size_of: Callable[[Shapes], str | None]
    parts: Callable[[Shapes, Mapping[str, Mapping[str, Any]]], Parts]
    files: str
    give: str
    places: tuple[Mapping[str, str], ...] = ()
    unused: str = ""

    def is_unused(self, name: str) -> bool:
        """Whether a tensor of this name does nothing."""
        return bool(self.unused) and re.fullmatch(self.unused, name) is not None
