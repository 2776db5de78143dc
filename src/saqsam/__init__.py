"""saqsam: the Segment Anything Model in 8, 6 and 4 bits, packed, audited and still segmenting.

Names are imported on first use, so that ``import saqsam`` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
