"""Licences that ask something of whoever passes a model on, or what was made of it."""

from __future__ import annotations

import logging
from dataclasses import dataclass

logger = logging.getLogger("saqsam")


@dataclass(frozen=True)
class Licence:
    """A licence that a written file falls under.

    Attributes:
        name: what it is called.
        label: in the header of a model card.
        link: its text.
        asks: what it asks, in a sentence.
    """

    name: str
    label: str
    link: str
    asks: str

    def tell(self, where: object) -> None:
        """Say it of a file that was written, in a warning."""
        logger.warning("%s: under the %s (%s). %s", where, self.name, self.link, self.asks)


SAM_LICENCE = Licence(
    "SAM License",
    "sam-license",
    "https://github.com/facebookresearch/sam3/blob/main/LICENSE",
    "Pass it on only under that licence, with a copy of it; it forbids military, nuclear, espionage and "
    "weapons uses and all that ITAR covers",
)
"""Of SAM 3 (version of 19 November 2025); what is made of its weights falls under it."""
