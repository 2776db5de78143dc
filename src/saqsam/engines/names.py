"""Who computes a model: names for ``load(..., engine=...)`` and ``--engine``."""

from __future__ import annotations

TORCH, ONNXRUNTIME, NATIVE, INT8, COMPILED = "torch", "onnxruntime", "native", "int8", "compiled"
ENGINES = (TORCH, ONNXRUNTIME, NATIVE, INT8, COMPILED)
AUTO = "auto"
"""The fastest of them here, see ``choice``."""
IN_PYTORCH = (INT8, COMPILED)
"""Those that compute with integers inside a PyTorch model."""
