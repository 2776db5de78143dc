"""Own integer kernels for the CPU, and the image encoder of SAM 1 on them; see ``README.md`` beside it."""
