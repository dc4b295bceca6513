"""What is injected: faults, injections, bit edits and the lists that hold them. Knows no ONNX."""
