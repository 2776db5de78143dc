"""The ways to compute a packed model."""
