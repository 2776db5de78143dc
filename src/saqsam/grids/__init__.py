"""Number formats as pure functions: affine, logarithmic, grouped and hybrid grids; nothing has state."""
