"""Calibration images and prompts, and the ranges that come of them."""
