"""Torch modules that compute on grids: the quantizer, and layers and attention with quantizers."""
