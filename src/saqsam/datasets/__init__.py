"""Annotation files, read once and checked, for prompts, tasks, detectors and calibration."""
