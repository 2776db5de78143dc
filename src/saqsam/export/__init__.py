"""Packed models as ONNX graphs, built from their integers, with proof that they give the same masks."""
