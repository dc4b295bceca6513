"""From framework models to ONNX files, every weight bit for bit."""
