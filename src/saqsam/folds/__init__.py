"""Exact rewrites of attention weights: float outputs stay, the numbers to be quantized get kinder."""
