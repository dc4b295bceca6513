"""Types of layers under the names that PyTorch, Keras and ONNX give them."""

#: Names that the frameworks and ONNX give to the same kind of layer, in lower case.
_KINDS = (
    {"conv", "conv1d", "conv2d", "conv3d", "depthwiseconv2d"},
    {"convtranspose", "convtranspose1d", "convtranspose2d", "conv2dtranspose", "convtranspose3d"},
    {"linear", "dense", "gemm", "matmul"},
    {"batchnormalization", "batchnorm1d", "batchnorm2d", "batchnorm3d"},
    {"maxpool", "maxpool2d", "maxpooling2d"},
    {"averagepool", "avgpool2d", "averagepooling2d"},
    {"globalaveragepool", "adaptiveavgpool2d", "globalaveragepooling2d", "reducemean"},
    {"layernorm", "layernormalization"},
    {"flatten", "reshape"},
    {"relu6", "clip"},
    {"concatenate", "concat"},
    {"input", "inputlayer"},
)
_NUMBER = {name: number for number, names in enumerate(_KINDS) for name in names}


def same_kind(one: str, other: str) -> bool:
    """Whether two names are of one type of layer, whatever their case."""
    a, b = one.casefold(), other.casefold()
    return a == b or (a in _NUMBER and _NUMBER[a] == _NUMBER.get(b))
