"""What neurons are without a fault: the values that plain ONNX Runtime computes there, for every dtype and input."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from bitswap_onnx.errors import ControlFailedError
from bitswap_onnx.faults.bits import to_bits
from bitswap_onnx.faults.fault import Fault, Injection, Site
from bitswap_onnx.graph.model import Model, from_proto
from bitswap_onnx.graph.receipts import NeuronReceipt
from bitswap_onnx.graph.resolve import Resolver
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.runtime.observe import Observer
from bitswap_onnx.runtime.session import Numerics, open_session
from tests.builders import build, normal

COUNT, BATCH = 11, 4

TYPES = """net (float[N, 3, 4] x) => (float[N, 8] y) {
    h = Cast <to = 10> (x)
    d = Cast <to = 11> (x)
    s = Mul (x, twenty)
    i = Cast <to = 3> (s)
    l = Cast <to = 7> (s)
    t = Transpose <perm = [0, 2, 1]> (x)
    r = ReduceSum <keepdims = 0> (x, one)
    y = Concat <axis = 1> (r, r)
}"""
VALUES = ("x", "h", "d", "i", "l", "t", "r", "y")


def types() -> Model:
    return from_proto(build(TYPES, twenty=np.float32(20), one=np.array([1])))


def values_of(model: Model, x: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Every value, made a graph output, by a runtime that optimises nothing."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    known = {value.name for value in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in VALUES if name not in {*known, "x"})
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    handle = ort.InferenceSession(proto.SerializeToString(), options)
    names = [value.name for value in handle.get_outputs()]
    return {"x": x, **dict(zip(names, handle.run(names, {"x": x}), strict=True))}


def observed(model: Model, x: NDArray[Any], receipts: list[NeuronReceipt], pieces: Iterator[NDArray[Any]]) -> list[int]:
    numerics = Numerics(batch_size=BATCH)
    scores = open_session(model, numerics, "y").run(x)
    observer = Observer(Slicer(model, "y", BATCH, x.shape[1:]), numerics, "y")
    for receipt in receipts:
        observer.want([receipt])
    return list(observer.bits(pieces, scores))


def neurons(model: Model, count: int = 200) -> list[NeuronReceipt]:
    """Random neurons of all values and inputs, in no order; every fifth fault is one of all inputs."""
    resolver = Resolver(model, slicer=Slicer(model, "y", BATCH, (3, 4)), inputs=COUNT)
    draw = np.random.default_rng(0)
    sites = [site for site in resolver.sites if site.value in VALUES]
    faults = []
    for number in range(count):
        site = sites[int(draw.integers(len(sites)))]
        index = tuple(int(draw.integers(size)) for size in site.shape)
        which = None if number % 5 == 4 else int(draw.integers(COUNT))
        faults.append(Fault(site.layer, index, 0, site=site.site, input=which))
    return [
        neuron for i, fault in enumerate(faults) for neuron in resolver.resolve(Injection(f"{i}", (fault,))).neurons
    ]


def pieces_of(x: NDArray[Any], length: int) -> Iterator[NDArray[Any]]:
    yield from (x[first : first + length] for first in range(0, len(x), length))


@pytest.mark.parametrize("length", [BATCH, 2 * BATCH, COUNT])
def test_bits_are_those_of_the_clean_values(length: int) -> None:
    model, x = types(), normal(COUNT, 3, 4, seed=5)
    receipts = neurons(model)
    found = observed(model, x, receipts, pieces_of(x, length))
    values = values_of(model, x)
    named = [receipt for receipt in receipts if receipt.fault.input is not None]
    assert {receipt.site.value for receipt in named} == set(VALUES)
    assert {receipt.site.site for receipt in named} == {Site.INPUT, Site.OUTPUT}
    expected = [
        int(to_bits(np.ascontiguousarray(values[r.site.value]))[(r.fault.input, *r.fault.index)]) for r in named
    ]
    assert found == expected


def test_faults_of_all_inputs_need_one_batch() -> None:
    """It shows whether the values can be got at."""
    model, x = types(), normal(COUNT, 3, 4)
    receipts = [receipt for receipt in neurons(model) if receipt.fault.input is None]

    def once() -> Iterator[NDArray[Any]]:
        yield x[:BATCH]
        raise AssertionError("more data were read")

    assert observed(model, x, receipts, once()) == []


def test_other_scores_are_refused() -> None:
    model, x = types(), normal(COUNT, 3, 4)
    observer = Observer(Slicer(model, "y", BATCH, (3, 4)), Numerics(batch_size=BATCH), "y")
    observer.want(neurons(model))
    scores = open_session(model, Numerics(batch_size=BATCH), "y").run(x)
    scores[9, 0] += 1
    with pytest.raises(ControlFailedError, match="has other scores when its neurons are read"):
        list(observer.bits(pieces_of(x, BATCH), scores))
