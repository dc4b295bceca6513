"""Types of layers and their names in PyTorch, Keras and ONNX."""

#: ONNX operator → the frameworks' names of the layers that it computes, in lower case.
_COMPUTES = {
    "conv": {"conv1d", "conv2d", "conv3d", "depthwiseconv2d"},
    "convtranspose": {
        *("convtranspose1d", "convtranspose2d", "convtranspose3d"),
        *("conv1dtranspose", "conv2dtranspose", "conv3dtranspose"),
    },
    "gemm": {"linear", "dense"},
    "matmul": {"linear", "dense"},
    "batchnormalization": {"batchnorm1d", "batchnorm2d", "batchnorm3d"},
    "layernormalization": {"layernorm"},
    "maxpool": {"maxpool1d", "maxpool2d", "maxpool3d", "maxpooling1d", "maxpooling2d", "maxpooling3d"},
    "averagepool": {"avgpool1d", "avgpool2d", "avgpool3d", "averagepooling1d", "averagepooling2d", "averagepooling3d"},
    "globalaveragepool": {"adaptiveavgpool2d", "globalaveragepooling2d"},
    "reducemean": {"adaptiveavgpool2d", "globalaveragepooling2d"},
    "reshape": {"flatten"},
    "clip": {"relu6"},
    "concat": {"concatenate"},
    "input": {"inputlayer"},
}

#: PyTorch's and Keras's names of one type of layer, in lower case.
_PAIRS = {
    *(("linear", "dense"), ("adaptiveavgpool2d", "globalaveragepooling2d")),
    *((f"maxpool{n}d", f"maxpooling{n}d") for n in (1, 2, 3)),
    *((f"avgpool{n}d", f"averagepooling{n}d") for n in (1, 2, 3)),
    *((f"convtranspose{n}d", f"conv{n}dtranspose") for n in (1, 2, 3)),
}


def same_kind(first: str, second: str) -> bool:
    """Whether two names, in any case, stand for one type of layer, in the same or in two of PyTorch, Keras and ONNX."""
    a, b = first.casefold(), second.casefold()
    return a == b or b in _COMPUTES.get(a, ()) or a in _COMPUTES.get(b, ()) or (a, b) in _PAIRS or (b, a) in _PAIRS
