"""The same faults in ONNX Runtime and in the native framework."""
