"""Packed models on the CPU with integer products: ONNX Runtime sessions built in memory."""
