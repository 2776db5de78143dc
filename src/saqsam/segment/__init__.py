"""From pixels and prompts to masks."""
