"""Results for people: overlays and tables."""
