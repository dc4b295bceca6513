"""Small models for tests, written in ONNX's textual form."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper


def build(text: str, opset: int = 20, ir_version: int = 9, /, **tensors: NDArray[Any] | np.generic) -> onnx.ModelProto:
    """Return the model ``graph {body}`` with ``tensors`` as initializers; ``__`` in a name stands for a dot."""
    header = f'<ir_version: {ir_version}, opset_import: ["" : {opset}, "com.microsoft" : 1]>\n'
    model = onnx.parser.parse_model(header + text)
    for name, values in tensors.items():
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name.replace("__", ".")))
    return model


def save(proto: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def normal(*shape: int, seed: int = 0, dtype: Any = np.float32) -> NDArray[Any]:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


CNN = """
net (float[N, 1, 6, 6] x) => (float[N, 4] scores) {
    a = Conv <kernel_shape = [3, 3]> (x, "conv.weight", "conv.bias")
    b = BatchNormalization (a, "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
    c = Relu (b)
    d = Flatten (c)
    scores = Gemm <transB = 1> (d, "fc.weight", "fc.bias")
}
"""


def cnn(seed: int = 0) -> onnx.ModelProto:
    """A conv, batch-norm, linear classifier of 4 classes on (1, 6, 6) inputs, names as PyTorch has them."""
    return build(
        CNN,
        conv__weight=normal(3, 1, 3, 3, seed=seed),
        conv__bias=normal(3, seed=seed + 1),
        bn__weight=normal(3, seed=seed + 2),
        bn__bias=normal(3, seed=seed + 3),
        bn__running_mean=normal(3, seed=seed + 4),
        bn__running_var=np.abs(normal(3, seed=seed + 5)) + np.float32(0.5),
        fc__weight=normal(4, 48, seed=seed + 6),
        fc__bias=normal(4, seed=seed + 7),
    )


def single(name: str, **tensors: NDArray[np.generic]) -> onnx.ModelProto:
    """A model that adds parameters to its input, one after the other."""
    names = [key.replace("__", ".") for key in tensors]
    lines = [f'    v{i + 1} = Add (v{i}, "{key}")' for i, key in enumerate(names)]
    return build(f"{name} (float[N] v0) => (float v{len(names)}) {{\n" + "\n".join(lines) + "\n}", **tensors)
