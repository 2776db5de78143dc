"""What the released research code leaves behind, off the grid, for comparison."""
