"""Costs of layers: multiply-accumulates counted by running layers on ones, weights by numpy, ResNet20 by torch."""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from bitswap_onnx.faults.fault import Site
from bitswap_onnx.graph.costs import LayerCost, kernel_of, layer_costs
from bitswap_onnx.graph.model import from_proto, load_model
from bitswap_onnx.graph.sites import find_sites
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.graph.targets import find_targets
from tests.builders import build, cnn, normal
from tests.keras_layout import as_keras, takes_nhwc

BATCH = 3


def slicer_of(proto: onnx.ModelProto) -> Slicer:
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    return Slicer(from_proto(proto), proto.graph.output[0].name, BATCH, tuple(dim.dim_value for dim in dims)[1:])


def costs(proto: onnx.ModelProto) -> list[LayerCost]:
    """The costs of the layers with kernels, in order."""
    slicer = slicer_of(proto)
    return layer_costs(slicer, [s for s in find_sites(slicer) if s.site is Site.INPUT and s.role == "kernel"])


def ones(*shape: int) -> NDArray[np.float32]:
    return np.ones(shape, np.float32)


#: One layer without padding and bias: input shape, node, its weights' shape.
LAYERS: dict[str, tuple[tuple[int, ...], str, tuple[int, ...]]] = {
    "conv": ((3, 7, 8), "Conv <kernel_shape = [3, 2]>", (5, 3, 3, 2)),
    "strided": ((3, 7, 8), "Conv <strides = [2, 3]>", (5, 3, 3, 2)),
    "dilated": ((3, 7, 8), "Conv <dilations = [2, 1]>", (5, 3, 3, 2)),
    "grouped": ((6, 7, 8), "Conv <group = 3>", (9, 2, 3, 3)),
    "depthwise": ((6, 7, 8), "Conv <group = 6>", (6, 1, 3, 3)),
    "depthwise, twice as many": ((6, 7, 8), "Conv <group = 6>", (12, 1, 3, 3)),
    "pointwise": ((6, 4, 4), "Conv", (7, 6, 1, 1)),
    "conv of rows": ((4, 9), "Conv", (5, 4, 3)),
    "conv of volumes": ((2, 4, 5, 6), "Conv", (3, 2, 2, 2, 2)),
    "transposed": ((4, 5, 3), "ConvTranspose <strides = [2, 2]>", (4, 6, 3, 2)),
    "transposed, grouped": ((4, 5, 3), "ConvTranspose <group = 2>", (4, 3, 3, 2)),
    "gemm": ((11,), "Gemm", (11, 4)),
    "gemm, transposed": ((11,), "Gemm <transB = 1>", (4, 11)),
    "matmul": ((11,), "MatMul", (11, 4)),
    "matmul of rows": ((5, 11), "MatMul", (11, 4)),
    "matmul of matrices": ((2, 5, 11), "MatMul", (11, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_macs_are_the_sum_of_what_ones_give(name: str) -> None:
    """For weights and inputs of ones, each output element is the number of products that it sums."""
    shape, node, weights = LAYERS[name]
    operator, _, attributes = node.partition(" ")
    sizes = ", ".join(map(str, shape))
    rank = "N, " + ", ".join("M" for _ in shape)
    proto = build(
        f'net (float[N, {sizes}] x) => (float[{rank}] y) {{ y = {operator} {attributes} (x, "layer.weight") }}',
        layer__weight=ones(*weights),
    )
    del proto.graph.output[0].type.tensor_type.shape.dim[:]
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    check_by_ones(proto, "layer", int(np.prod(weights)))


def check_by_ones(proto: onnx.ModelProto, layer: str, parameters: int) -> None:
    slicer = slicer_of(proto)
    (y,) = ort.InferenceSession(proto.SerializeToString()).run(None, {"x": ones(1, *slicer.shape)})
    (found,) = costs(proto)
    assert (found.layer, found.macs, found.parameters) == (layer, y.sum(), parameters)
    assert found.weight_norm == pytest.approx(parameters**0.5)
    assert found.weight_exponent == 0


@pytest.mark.parametrize(
    ("shape", "names", "weights"),
    [((4, 7), '"layer.weight", x', (5, 4)), ((2, 5, 11), 'x, "layer.weight"', (2, 11, 4))],
    ids=["on the left", "of many matrices"],
)
def test_other_constant_operands(shape: tuple[int, ...], names: str, weights: tuple[int, ...]) -> None:
    sizes, rank = ", ".join(map(str, shape)), ", ".join("M" for _ in shape)
    proto = build(
        f"net (float[N, {sizes}] x) => (float[N, {rank}] y) {{ y = MatMul ({names}) }}", layer__weight=ones(*weights)
    )
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    check_by_ones(proto, "layer", int(np.prod(weights)))


def test_padding_counts_in_full() -> None:
    """As usual: 6 x 6 outputs of 3 channels, each of 3 x 3 products."""
    proto = build(
        'net (float[N, 1, 6, 6] x) => (float[N, 3, 6, 6] y) { y = Conv <pads = [1, 1, 1, 1]> (x, "layer.weight") }',
        layer__weight=ones(3, 1, 3, 3),
    )
    assert costs(proto)[0].macs == 6 * 6 * 3 * 9


def test_a_product_of_two_activations() -> None:
    """No parameters, no weights, 5 x 7 elements of 4 products each for both heads."""
    proto = build(
        """net (float[N, 2, 5, 4] x) => (float[N, 2, 5, 7] y) {
            a = Relu (x)
            b = MatMul (a, "first.weight")
            c = Transpose <perm = [0, 1, 3, 2]> (b)
            y = MatMul (x, c)
        }""",
        first__weight=normal(4, 4),
    )
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    first, second = costs(proto)
    assert (first.macs, first.parameters) == (2 * 5 * 4 * 4, 16)
    assert (second.macs, second.parameters) == (2 * 5 * 5 * 4, 0)
    assert (second.weight_norm, second.weight_exponent) == (0, -np.inf)


@pytest.mark.parametrize("keras", [False, True])
def test_frameworks_count_alike(keras: bool) -> None:
    """Conv: 3 x 4 x 4 outputs of 9 products, bias counted as parameters; kernels HWIO and images NHWC as Keras has them."""
    proto = cnn()
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    if keras:
        proto = takes_nhwc(as_keras(proto))
    conv, fc = costs(proto)
    assert (conv.layer, fc.layer) == (("conv2d", "dense") if keras else ("conv", "fc"))
    assert (conv.macs, fc.macs) == (3 * 16 * 9, 48 * 4)
    assert (conv.parameters, fc.parameters) == (27 + 3, 192 + 4)
    for cost, name in ((conv, "conv.weight"), (fc, "fc.weight")):
        weights = tensors[name].astype(np.float64)
        assert cost.weight_norm == pytest.approx(np.sqrt(np.sum(weights**2)))
        assert cost.weight_exponent == pytest.approx(np.floor(np.log2(np.abs(weights))).mean())


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.float32])
def test_weights_in_numbers(dtype: Any) -> None:
    """0, NaN and infinities have no exponent; 2, 3, 0.75 and a subnormal: 1, 1, -1 and its own."""
    tiny = np.finfo(dtype).smallest_subnormal
    weights = np.array([[0, -0.0, 2, -3], [0.75, tiny, np.inf, np.nan]], dtype)
    (found,) = costs(gemm(weights))
    assert found.weight_exponent == (1 + 1 - 1 + np.log2(tiny.astype(np.float64))) / 4
    finite = np.array([[1, 2, -2, 0]], dtype)
    assert costs(gemm(finite))[0].weight_norm == 3


def test_bfloat16_and_nothing_but_zeros() -> None:
    weights = np.array([[0.5, -1.5]], ml_dtypes.bfloat16)
    assert costs(gemm(weights))[0].weight_exponent == -0.5
    assert costs(gemm(np.zeros((2, 2), np.float32)))[0].weight_exponent == -np.inf


def test_a_module_that_is_called_twice() -> None:
    """Both calls are layers, which hold the same parameters."""
    proto = build(
        """net (float[N, 5] x) => (float[N, 5] z) {
            y = Gemm <transB = 1> (x, "fc.weight", "fc.bias")
            z = Gemm <transB = 1> (y, "fc.weight", "fc.bias")
        }""",
        fc__weight=normal(5, 5),
        fc__bias=normal(5),
    )
    modules = {"modules": {"fc": {"type": "Linear", "value": "z", "values": ["y", "z"]}}}
    proto.metadata_props.add(key="bitswap_onnx", value=json.dumps(modules))
    assert [(cost.layer, cost.parameters, cost.macs) for cost in costs(proto)] == [("fc[0]", 30, 25), ("fc[1]", 30, 25)]


def gemm(weights: NDArray[Any]) -> onnx.ModelProto:
    proto = build(
        f'net (float[N, {weights.shape[1]}] x) => (float[N, {len(weights)}] y) {{ y = Gemm <transB = 1> (x, "fc.weight") }}'
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weights, "fc.weight"))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = proto.graph.initializer[0].data_type
    return proto


def test_kernels() -> None:
    """A layer's kernel, and none for a layer that stores none."""
    slicer = slicer_of(cnn())
    targets = find_targets(slicer.model)
    found = {site.layer: kernel_of(site, targets) for site in find_sites(slicer) if site.role != "node"}
    assert {layer: kernel and kernel.tensor for layer, kernel in found.items()} == {
        "x": None,
        "conv": "conv.weight",
        "fc": "fc.weight",
    }


def test_resnet20(tmp_path: Path) -> None:
    """40.55 M, and each layer's as torch's own modules say: outputs x products of one."""
    torch = pytest.importorskip("torch")
    from bitswap_onnx.converters.torch_to_onnx import export_torch
    from bitswap_onnx.models import zoo

    network = zoo.build("ResNet20", "CIFAR10", None)
    expected: dict[str, tuple[int, int]] = {}
    hooks = []
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):

            def count(module: Any, _: object, y: Any, name: str = name) -> None:
                parameters = sum(parameter.numel() for parameter in module.parameters())
                expected[name] = y[0].numel() * module.weight[0].numel(), parameters

            hooks.append(module.register_forward_hook(count))
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, 32, 32))
    for hook in hooks:
        hook.remove()
    export_torch(network, (3, 32, 32), tmp_path / "net.onnx")
    model = load_model(tmp_path / "net.onnx")
    slicer = Slicer(model, model.proto.graph.output[0].name, BATCH, (3, 32, 32))
    sites = [site for site in find_sites(slicer) if site.site is Site.INPUT and site.role == "kernel"]
    found = {cost.layer: (cost.macs, cost.parameters) for cost in layer_costs(slicer, sites)}
    assert found == expected
    assert sum(macs for macs, _ in found.values()) == pytest.approx(40.55e6, abs=0.005e6)
