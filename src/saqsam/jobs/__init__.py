"""Run directories: long jobs that can be killed at any moment and taken up again."""
