"""Whether single values of a configuration make sense, for the tables of the families."""

from __future__ import annotations

from collections.abc import Collection

_OF_SAM = ("gelu", "relu")
MOST = 2**16  # far above any SAM, and small enough to multiply without care
MOST_LAYERS = 256  # SAM-H has 32; each takes milliseconds to lay out, even without memory


def is_count(value: object) -> bool:
    """A whole number of things, at least one."""
    return type(value) is int and 1 <= value <= MOST


def is_depth(value: object) -> bool:
    """A number of layers."""
    return is_count(value) and isinstance(value, int) and value <= MOST_LAYERS


def is_ratio(value: object) -> bool:
    """A positive number."""
    return isinstance(value, int | float) and type(value) is not bool and 0 < value <= MOST


def is_flag(value: object) -> bool:
    """True or false."""
    return type(value) is bool


def is_share(value: object) -> bool:
    """A number between 0 and 1."""
    return isinstance(value, int | float) and type(value) is not bool and 0 <= value <= 1


def is_epsilon(value: object) -> bool:
    """What a norm adds to a variance."""
    return type(value) is float and 0 < value <= 1e-2


def is_activation(value: object) -> bool:
    """The name of an activation function."""
    return isinstance(value, str) and (value in _OF_SAM or value in _activations())


def _activations() -> Collection[str]:
    """All that ``transformers`` knows, whose import takes seconds."""
    from transformers.activations import ACT2FN

    return ACT2FN.keys()


def are_indexes(value: object) -> bool:
    """A list of numbers of blocks."""
    return isinstance(value, list | tuple) and all(type(i) is int and 0 <= i < MOST for i in value)
