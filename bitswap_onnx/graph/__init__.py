"""The ONNX model: loading, targets, resolving faults, rewriting. Knows no runtime."""
