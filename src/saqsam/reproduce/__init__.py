"""Repeating a row of the papers' tables with the published weights and COCO, and saying how it differs."""
