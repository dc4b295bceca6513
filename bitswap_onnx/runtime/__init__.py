"""ONNX Runtime: sessions, the golden run, the engines and their workers. The only place that imports it."""
