"""What exporters of SAM 2 call the tensors between encoder and decoder, and what the decoder says."""

from __future__ import annotations

FINE, MIDDLE, MAIN = "high_res_feats_0", "high_res_feats_1", "image_embed"
"""Levels of the embedding, in the order in which encoders give them."""
OBJECTS, SINGLE = "object_score_logits", "single_mask"
