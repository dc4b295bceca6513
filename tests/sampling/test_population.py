"""Populations of faults: filters, bits and neighbours; distances that flips move weights, worked out by hand."""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import external_data_helper

from bitswap_onnx.errors import BitswapError
from bitswap_onnx.faults.fault import Kind
from bitswap_onnx.graph.model import Model, from_proto, load_model
from bitswap_onnx.graph.resolve import resolve
from bitswap_onnx.sampling import population as populations
from bitswap_onnx.sampling.draws import Sample
from bitswap_onnx.sampling.population import bit_distances, find_population
from bitswap_onnx.sampling.strata import Pattern, stratify
from tests.builders import build, cnn, normal

ALL = tuple(range(32))

QUANTIZED = """net (float[N, 6] x) => (float[N, 4] y) {
    w = DequantizeLinear ("fc.weight", "fc.scale", "fc.zero")
    y = MatMul (x, w)
}"""


def quantized() -> Model:
    integers = np.arange(24, dtype=np.int8).reshape(6, 4)
    return from_proto(
        build(QUANTIZED, fc__weight=integers, fc__scale=np.float32(0.5), fc__zero=np.array(0, dtype=np.int8)), "q"
    )


def one_layer(weights: NDArray[Any]) -> Model:
    text = "net (T[N, W] x) => (T[N, 1] y) { y = MatMul (x, fc) }".replace("W", str(weights.size))
    names = {"float64": "double", "float32": "float"}
    proto = build(text.replace("T[", names.get(weights.dtype.name, weights.dtype.name) + "["))
    dtype = onnx.helper.np_dtype_to_tensor_dtype(weights.dtype)
    raw = onnx.TensorProto(name="fc", data_type=dtype, dims=(weights.size, 1), raw_data=weights.tobytes())
    proto.graph.initializer.append(raw)
    return from_proto(proto)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, ["conv.weight", "fc.weight"]),
        ({"parameters": "weight,bias"}, ["conv.weight", "conv.bias", "fc.weight", "fc.bias"]),
        ({"parameters": "bn_var, running_mean"}, ["bn.running_mean", "bn.running_var"]),
        ({"layers": "fc"}, ["fc.weight"]),
        ({"exclude": "conv*"}, ["fc.weight"]),
        ({"layers": "conv,fc", "exclude": "fc.weight"}, ["conv.weight"]),
    ],
)
def test_filters(filters: dict[str, Any], expected: list[str]) -> None:
    assert [region.tensor for region in find_population(from_proto(cnn()), **filters)] == expected


def test_regions_know_shape_bits_and_address() -> None:
    kernel, bias = find_population(from_proto(cnn()), parameters="weight,bias", layers="fc")
    assert (kernel.layer, kernel.address, kernel.shape, kernel.bits) == ("fc", ("fc", None), (4, 48), ALL)
    assert (bias.layer, bias.address, bias.format, bias.slots) == ("fc", ("fc", "bias"), "float32", 128)


@pytest.mark.parametrize(
    ("bits", "span", "expected"),
    [
        ("30,31", 1, (30, 31)),
        ("0-31", 1, ALL),
        ("sign", 1, (31,)),
        ("exponent", 1, tuple(range(23, 31))),
        ("mantissa,31", 1, (*range(23), 31)),
        ("0-3,31", 2, (0, 1, 2)),
        (None, 4, tuple(range(29))),
    ],
)
def test_bits(bits: str | None, span: int, expected: tuple[int, ...]) -> None:
    assert {region.bits for region in find_population(from_proto(cnn()), bits=bits, span=span)} == {expected}


def test_bits_of_several_formats() -> None:
    """A bit that some format lacks is left out there; integers have no exponent."""
    model = quantized()
    by_name = {r.tensor: r.bits for r in find_population(model, parameters="weight,scale", bits="sign,3,20")}
    assert by_name == {"fc.weight": (3, 7), "fc.scale": (3, 20, 31)}
    assert [r.tensor for r in find_population(model, parameters="weight,scale", bits="exponent")] == ["fc.scale"]


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"bits": "40"}, "`bits`: expected bits that the parameters have .0-31 of float32., found '40'"),
        ({"bits": "30-40"}, "`bits`: expected bits that the parameters have"),
        ({"bits": "integer"}, "`bits`: expected bits that the parameters have"),
        ({"bits": "5-3"}, "`bits`: expected numbers, ranges and sign, exponent, mantissa, integer"),
        ({"bits": "top"}, "`bits`: expected numbers, ranges and"),
        ({"bits": "\u0663"}, "`bits`: expected numbers, ranges and"),
        ({"bits": "1-1_0"}, "`bits`: expected numbers, ranges and"),
        ({"bits": "3", "span": 2}, "model: expected 2 neighbouring bits to draw faults from, found none"),
        ({"parameters": "wieght"}, "no parameter has the role or the name 'wieght'; there are the roles bias, bn_bias"),
        ({"exclude": "*"}, "model: expected a bit to draw faults from, found none"),
        ({"layers": "nothing"}, "no layer or parameter matches 'nothing'"),
    ],
)
def test_filters_that_leave_nothing(filters: dict[str, Any], message: str) -> None:
    with pytest.raises(BitswapError, match=message):
        find_population(from_proto(cnn()), **filters)


def test_a_model_that_stores_nothing() -> None:
    relu = from_proto(build("net (float[N, 2] x) => (float[N, 2] y) { y = Relu (x) }"))
    with pytest.raises(BitswapError, match="model: the model stores no parameter that faults can hit"):
        find_population(relu)


PATTERNS = [Pattern(), Pattern((Kind.STUCK_AT_0, Kind.STUCK_AT_1), 3), Pattern((Kind.FLIP,), 2, burst=True)]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_drawn_fault_hits_the_stratum_it_was_drawn_from(pattern: Pattern) -> None:
    """Names, indices and bits resolve, also where two layers share a name and a tensor's own key is needed."""
    proto = cnn()
    twin = normal(4, 4, seed=9)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(twin, "fc/kernel"))
    proto.graph.node.append(onnx.helper.make_node("MatMul", ["scores", "fc/kernel"], ["twice"]))
    proto.graph.output[0].name = "twice"
    model = from_proto(proto)
    regions = find_population(model, parameters="weight,bias,bn_mean", bits="20-31", span=2 if pattern.burst else 1)
    assert len(regions) == 6
    strata = stratify(regions, lambda region, bit: region.tensor)
    sample = Sample(strata, (20,) * len(strata), pattern, 0)
    hit = [{receipt.target.tensor for receipt in resolved.receipts} for resolved in resolve(model, sample)]
    assert hit == [{stratum.name} for stratum in strata for _ in range(20)]


def test_distances_worked_out_by_hand() -> None:
    """Of 1.0 and -0.75: sign 2|w|; bit 22 is 0.5 and 0.25; bit 23 halves 1.0, and takes -0.75 to -1.5; bit 30."""
    model = one_layer(np.array([1.0, -0.75], np.float32))
    distances = bit_distances(model, find_population(model))["float32"]
    largest = float(np.finfo(np.float32).max)
    assert distances[31] == (2 + 1.5) / 2
    assert distances[22] == (0.5 + 0.25) / 2
    assert distances[0] == (2**-23 + 2**-24) / 2
    assert distances[23] == (0.5 + 0.75) / 2
    assert distances[30] == pytest.approx((largest + 0.75 * 2.0**128) / 2)  # 1.0 becomes infinite, -0.75 merely huge


@pytest.mark.parametrize(
    ("dtype", "largest"),
    [
        (np.float16, 65504.0),
        (ml_dtypes.bfloat16, (2 - 2**-7) * 2.0**127),
        (np.float32, (2 - 2**-23) * 2.0**127),
        (np.float64, (2 - 2**-52) * 2.0**1023),
    ],
)
def test_distances_of_every_format(dtype: Any, largest: float) -> None:
    """Element by element in Python, against the vectorised sums over pieces of three."""
    weights = np.array([0.3, -1.7, 0.0, 1e-7, 2.5, -0.01, 1.0, -1e-45, np.inf, np.nan], np.float32).astype(dtype)
    model, width = one_layer(weights), weights.dtype.itemsize * 8
    expected = []
    for bit in range(width):
        total = 0.0
        for weight in weights:
            pattern = int.from_bytes(weight.tobytes(), "little") ^ (1 << bit)
            flipped = float(np.frombuffer(pattern.to_bytes(width // 8, "little"), weights.dtype)[0])
            distance = abs(flipped - float(weight))
            total += distance if np.isfinite(distance) else largest
        expected.append(total / len(weights))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(populations, "_PIECE", 3)
        distances = bit_distances(model, find_population(model))
    assert list(distances) == [weights.dtype.name]
    np.testing.assert_allclose(distances[weights.dtype.name], expected, rtol=1e-12)


def test_distances_of_integers_are_powers_of_two() -> None:
    model = quantized()
    distances = bit_distances(model, find_population(model))
    assert distances["int8"].tolist() == [2.0**bit for bit in range(8)]


def test_distances_of_external_data(tmp_path: Path) -> None:
    """Mapped, not loaded; the same numbers."""
    inside = from_proto(cnn())
    proto = cnn()
    external_data_helper.convert_model_to_external_data(proto, location="w.data", size_threshold=0)
    onnx.save_model(proto, str(tmp_path / "m.onnx"))
    outside = load_model(tmp_path / "m.onnx")
    assert outside.has_external_data
    for model in (inside, outside):
        distances = bit_distances(model, find_population(model))["float32"]
        np.testing.assert_array_equal(distances, bit_distances(inside, find_population(inside))["float32"])
