"""Object detectors whose boxes prompt SAM: the paper's four families and any detector of ``transformers``."""
