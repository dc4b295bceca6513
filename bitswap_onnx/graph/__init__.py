"""The ONNX model: loading it, finding targets and neuron sites, resolving faults, rewriting. Knows no runtime."""
