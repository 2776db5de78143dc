"""The names of the models that come with the package."""

EMBEDDED_NAMES = ("nano", "nano-outliers", "small", "small-outliers", "nano-sam2", "nano-sam2-outliers")
