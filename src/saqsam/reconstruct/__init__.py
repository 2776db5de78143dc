"""Learned rounding and scales: units of the model, one loss, one loop (SAQ-SAM, QDrop, BRECQ, AdaRound)."""
