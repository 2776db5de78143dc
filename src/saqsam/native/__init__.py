"""Own integer kernels for the CPU, and SAM 1 on them; see ``README.md`` beside it."""
