"""What things are called in a saved directory."""

from __future__ import annotations

METHOD = "saqsam"
"""``quant_method`` in ``config.json``."""
WEIGHTS = "saqsam.safetensors"
"""The packed file. Not ``model.safetensors``: ``transformers`` without saqsam would open that, know none of
its tensors and go on with random weights. This one it does not find, and stops."""
CONFIG = "config.json"
PROCESSOR = "processor_config.json"
CARD = "README.md"
