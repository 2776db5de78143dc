"""Number formats as pure functions: the affine grid, the logarithmic grid, and nothing that has state."""
