"""Speed, memory and agreement of engines, side by side."""
