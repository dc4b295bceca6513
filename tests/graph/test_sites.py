"""Sites: the values that faults can hit, their names, and the element of a value that an index stands for."""

import json
from typing import Any

import numpy as np
import onnx
import pytest

from bitswap_onnx.errors import ModelError
from bitswap_onnx.faults.fault import Site
from bitswap_onnx.graph.model import from_proto
from bitswap_onnx.graph.site_choice import select_sites
from bitswap_onnx.graph.sites import NeuronSite, data_slot, find_sites, is_site
from bitswap_onnx.graph.slices import Slicer
from tests.builders import build, cnn, normal

BATCH = 4


def sites_of(proto: onnx.ModelProto, batch: int = BATCH, **metadata: Any) -> tuple[NeuronSite, ...]:
    if metadata:
        proto = onnx.ModelProto.FromString(proto.SerializeToString())
        proto.metadata_props.add(key="bitswap_onnx", value=json.dumps(metadata))
    shape = tuple(dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim[1:])
    return find_sites(Slicer(from_proto(proto), proto.graph.output[0].name, batch, shape))


def outputs(sites: tuple[NeuronSite, ...]) -> dict[str, tuple[str, str, tuple[int, ...]]]:
    return {site.layer: (site.role, site.value, site.shape) for site in sites if site.site is Site.OUTPUT}


def test_layers_of_a_plain_model_in_execution_order() -> None:
    """A node with a kernel has two names for one site: its parameters' layer and its own name."""
    sites = sites_of(cnn())
    assert outputs(sites) == {
        "x": ("input", "x", (1, 6, 6)),
        "conv": ("kernel", "a", (3, 4, 4)),
        "a": ("node", "a", (3, 4, 4)),
        "b": ("node", "b", (3, 4, 4)),
        "c": ("node", "c", (3, 4, 4)),
        "d": ("node", "d", (48,)),
        "fc": ("kernel", "scores", (4,)),
        "scores": ("node", "scores", (4,)),
    }
    assert list(outputs(sites)) == ["x", "conv", "a", "b", "c", "d", "fc", "scores"]
    by_name = {(site.layer, site.site.value): site for site in sites}
    assert by_name["conv", "output"].key == by_name["a", "output"].key == "@output:a"
    assert by_name["fc", "input"].key == "@input:scores"
    assert (by_name["fc", "input"].value, by_name["fc", "input"].shape) == ("d", (48,))
    assert by_name["x", "input"].key == by_name["x", "output"].key
    assert [is_site(key) for key in ("@output:a", "@input:a", "conv.weight")] == [True, True, False]


def test_the_data_come_by_the_first_slot_that_is_no_constant() -> None:
    text = "net (float[N, 3] x) => (float[N, 3] y) {\n a = Sub (one, x)\n b = Div (a, x)\n y = Add (b, one)\n}"
    slicer = Slicer(from_proto(build(text, one=normal(3))), "y", BATCH, (3,))
    assert [data_slot(slicer, node) for node in range(3)] == [1, 0, 0]
    (before,) = [site for site in find_sites(slicer) if site.layer == "a" and site.site is Site.INPUT]
    assert (before.value, before.slot) == ("x", 1)


NO_ROWS = """net (float[N, 4] x, float[N, 4] unused) => (float[N, 4] y) {
    s = Shape (x)
    m = ReduceMean <keepdims = 0> (x, zero)
    b = Cast <to = 9> (x)
    t = Transpose <perm = [1, 0]> (x)
    u = Transpose <perm = [1, 0]> (t)
    f = Cast <to = 1> (b)
    g = Add (f, m)
    y = Add (g, u)
}"""


def test_values_without_rows_and_of_other_types_are_none() -> None:
    """A shape, a mean over the batch, booleans: none of them has neurons."""
    proto = build(NO_ROWS, zero=np.array([0]))
    del proto.graph.input[1]
    assert set(outputs(sites_of(proto, batch=7))) == {"x", "u", "f", "g", "y"}


def test_a_first_dimension_as_long_as_the_batch_is_not_the_batch() -> None:
    """Transposed to (tokens, inputs): a row is a token of all inputs, even if there are as many tokens as inputs."""
    proto = build(NO_ROWS, zero=np.array([0]))
    del proto.graph.input[1]
    assert "t" not in outputs(sites_of(proto, batch=4))


TOWER = """net (float[N, 6, 6, 3] x) => (float[N, 4] y) {
    t = Transpose <perm = [0, 3, 1, 2]> (x)
    a = Conv <kernel_shape = [3, 3]> (t, "conv/kernel")
    b = Transpose <perm = [0, 2, 3, 1]> (a)
    c = Relu (b)
    p = MaxPool <kernel_shape = [2, 2]> (a)
    f = Flatten (c)
    g = MatMul (f, "dense/kernel")
    y = Softmax (g)
}"""
TOWER_TENSORS = {"conv/kernel": normal(5, 3, 3, 3), "dense/kernel": normal(80, 4)}


def test_keras_counts_with_the_channels_last() -> None:
    sites = sites_of(build(TOWER, **TOWER_TENSORS), framework="keras", parameters={})
    shapes = {(site.layer, site.site.value): (site.shape, site.order) for site in sites}
    assert shapes["conv", "output"] == ((4, 4, 5), (0, 2, 3, 1))
    assert shapes["conv", "input"] == ((6, 6, 3), (0, 1, 2, 3))  # where it is, before the Transpose
    assert shapes["c", "output"] == ((4, 4, 5), (0, 1, 2, 3))
    assert shapes["p", "output"] == ((3, 3, 5), (0, 2, 3, 1))
    plain = sites_of(build(TOWER, **TOWER_TENSORS))
    assert {site.shape for site in plain if site.layer == "conv" and site.site is Site.OUTPUT} == {(5, 4, 4)}


@pytest.mark.parametrize(
    ("shape", "order"), [((), (0,)), ((7,), (0, 1)), ((4, 5, 3), (0, 2, 3, 1)), ((2, 3, 4), (0, 3, 1, 2))]
)
def test_an_index_in_the_framework_s_layout_is_an_element_of_the_value(
    shape: tuple[int, ...], order: tuple[int, ...]
) -> None:
    """The value's axes, transposed by ``order``, are the framework's, and every element is found once."""
    site = NeuronSite("l", "", "", "node", Site.OUTPUT, "@output:v", "v", shape, "float32", order)
    value_shape = tuple(size for _, size in sorted(zip(order[1:], shape, strict=True)))
    numbered = np.arange(site.elements).reshape(1, *value_shape).transpose(order)[0]
    assert all(site.element(index) == numbered[index] for index in np.ndindex(shape))


RECORDED = """net (float[N, 6] x) => (float[N, 6] y) {
    a = MatMul (x, "net.lin.weight")
    b = Add (a, "net.lin.bias")
    c = Relu (b)
    d = MatMul (c, "net.two.weight")
    y = MatMul (d, "net.two.weight")
}"""
RECORDED_TENSORS = {"net.lin.weight": normal(6, 6), "net.lin.bias": normal(6), "net.two.weight": normal(6, 6, seed=1)}
PARAMETERS = {
    name: {"layer": name.rpartition(".")[0], "parameter": name.rpartition(".")[2]} for name in RECORDED_TENSORS
}


def test_modules_that_a_converter_recorded() -> None:
    """A module's output is the value that it returns, bias included; its input is what its kernel multiplies."""
    sites = sites_of(
        build(RECORDED, **RECORDED_TENSORS),
        parameters=PARAMETERS,
        modules={
            "": {"type": "Net", "value": "y"},
            "net": {"type": "Sequential", "value": "c"},
            "net.lin": {"type": "Linear", "value": "b"},
            "net.act": {"type": "ReLU", "value": "c"},
            "net.two": {"type": "Linear", "value": "y", "values": ["d", "y"]},
            "net.gone": {"type": "Linear", "value": "not there"},
        },
        vanished={"net.drop": {"type": "Dropout", "value": "c"}},
    )
    found = {(site.layer, site.site.value): site for site in sites}
    assert found["net.lin", "output"].value == "b"
    assert (found["net.lin", "input"].value, found["net.lin", "input"].key) == ("x", "@input:a")
    assert (found["net.lin", "output"].role, found["net.lin", "output"].weight) == ("kernel", "net.lin.weight")
    assert found["net.drop", "output"].key == found["net.drop", "input"].key == "@output:c"
    assert (found["net.two[0]", "output"].value, found["net.two[1]", "output"].value) == ("d", "y")
    assert ("net", "input") not in found
    assert not {"", "net.gone", "net.two"} & {layer for layer, _ in found}
    chosen = [site.layer for site in select_sites(sites)]
    assert chosen[:3] == ["x", "net.lin", "net.drop"]


def test_a_module_called_several_times_is_injected_in_each_call() -> None:
    sites = sites_of(
        build(RECORDED, **RECORDED_TENSORS),
        parameters=PARAMETERS,
        modules={"net.two": {"type": "Linear", "value": "y", "values": ["d", "y"]}},
    )
    assert {"net.two[0]", "net.two[1]"} <= {site.layer for site in select_sites(sites)}


RECURRENT = """net (float[N, 5] x) => (float[N, 3] y) {
    s = Unsqueeze (x, zero)
    l, h = LSTM <hidden_size = 4> (s, "lstm.weight", "lstm.recurrent")
    q = Squeeze (h, zero)
    y = MatMul (q, "fc.weight")
}"""


def test_a_weight_does_not_name_a_layer_behind_its_own() -> None:
    proto = build(
        RECURRENT,
        lstm__weight=normal(1, 16, 5),
        lstm__recurrent=normal(1, 16, 4),
        fc__weight=normal(4, 3),
        zero=np.array([0]),
    )
    found = outputs(sites_of(proto))
    assert found["fc"] == ("kernel", "y", (3,))
    assert "lstm" not in found


def test_a_layer_keeps_its_name_beside_an_input_of_that_name() -> None:
    """The model's input is called conv, and so is a layer: a list that says conv must not hit the input."""
    text = 'net (float[N, 6] conv) => (float[N, 6] y) {\n [conv] a = MatMul (conv, "conv.weight")\n y = Relu (a)\n}'
    found = outputs(sites_of(build(text, conv__weight=normal(6, 6))))
    assert found["conv"][1] == "a"


@pytest.mark.parametrize(
    "metadata",
    [
        {"modules": {"a": {"type": "Linear"}}},
        {"modules": {"a": {"value": "a"}}},
        {"modules": {"a": 3}},
        {"modules": [1]},
        {"vanished": {"a": {"type": "Dropout"}}},
        {"modules": {"a": {"type": "Linear", "values": []}}},
    ],
)
def test_damaged_metadata_is_said(metadata: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="metadata bitswap_onnx is damaged; export the model again"):
        sites_of(cnn(), **metadata)


COMPOSED = """net (float[N, 6] x) => (float[N, 6] y) {
    a = MatMul (x, "lin.weight")
    s = Sigmoid (a)
    b = Mul (a, s)
    e = Mul (b, "bn.scale")
    y = Add (e, "bn.shift")
}"""


@pytest.mark.parametrize(("layer", "kind"), [("act", "SiLU"), ("bn", "BatchNorm1d")])
def test_what_a_module_of_several_nodes_takes_in_is_not_what_its_last_node_does(layer: str, kind: str) -> None:
    """SiLU is Sigmoid and Mul, a batch norm may be Mul and Add: no single node computes the module."""
    proto = build(COMPOSED, lin__weight=normal(6, 6), bn__scale=normal(6), bn__shift=normal(6))
    modules = {"lin": {"type": "Linear", "value": "a"}, layer: {"type": kind, "value": "b" if layer == "act" else "y"}}
    found = {(site.layer, site.site.value): site for site in sites_of(proto, modules=modules, parameters={})}
    assert found[layer, "output"].value == modules[layer]["value"]
    assert (layer, "input") not in found


def test_what_a_module_of_one_node_takes_in() -> None:
    proto = build(RECORDED, **RECORDED_TENSORS)
    sites = sites_of(proto, modules={"act": {"type": "ReLU", "value": "c"}}, parameters=PARAMETERS)
    (before,) = [site for site in sites if site.layer == "act" and site.site is Site.INPUT]
    assert (before.value, before.key) == ("b", "@input:c")


@pytest.mark.parametrize(
    ("patterns", "kinds", "expected"),
    [
        (None, None, ["x", "conv", "fc"]),
        ("f*", None, ["fc"]),
        ("con", None, ["conv"]),
        ("conv,fc", None, ["conv", "fc"]),
        ("d", None, ["d"]),
        (None, "Conv2d", ["conv"]),
        (None, "Dense,Conv2D", ["conv", "fc"]),
        (None, "Relu", ["c"]),
        (None, "InputLayer", ["x"]),
        ("conv", "Conv", ["conv"]),
    ],
)
def test_choosing_layers(patterns: str | None, kinds: str | None, expected: list[str]) -> None:
    assert [site.layer for site in select_sites(sites_of(cnn()), patterns, kinds)] == expected


@pytest.mark.parametrize(
    ("patterns", "kinds", "message"),
    [
        ("cnov", None, "no layer matches 'cnov'; the nearest are conv"),
        ("conv,fx", None, "no layer matches 'fx'"),
        (None, "Conv2dd", "no layer is of type 'Conv2dd'; the nearest are Conv"),
        ("conv", "Gemm", "no layer is of type 'Gemm' and named 'conv'"),
    ],
)
def test_filters_that_match_nothing(patterns: str | None, kinds: str | None, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        select_sites(sites_of(cnn()), patterns, kinds)
