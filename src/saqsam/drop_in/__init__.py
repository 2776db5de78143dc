"""Quantized models as directories that ``transformers`` loads by itself: ``SamModel.from_pretrained``."""
