"""Pictures: reading, sizes and frames, cutting, drawing."""
