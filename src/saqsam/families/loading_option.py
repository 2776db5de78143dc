"""What files of a family leave to whoever loads them; see :mod:`saqsam.checkpoints.options`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LoadingOption:
    """A choice that files of the family leave to whoever loads them; it is a key of the configuration.

    Attributes:
        section: of the configuration, see ``ConfigRules``.
        values: what may be written -> value of the key; an empty text for the option's name alone.
    """

    section: tuple[str, ...]
    values: Mapping[str, Any]
