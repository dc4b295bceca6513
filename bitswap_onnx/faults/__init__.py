"""Faults, injections, bit edits and fault lists. Knows no ONNX."""
