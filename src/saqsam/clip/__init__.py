"""Perceptual-Consistency Clipping (PCC): ranges of decoder queries and keys that keep attention's focus."""
