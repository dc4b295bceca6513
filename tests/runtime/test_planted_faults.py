"""Planted faults: the numbers that they make."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.graph.edits import WeightEdit
from bitswap_onnx.graph.model import from_proto
from bitswap_onnx.runtime.planted_faults import plant
from tests.builders import build, normal


def test_planted_faults_make_every_kind_of_number() -> None:
    array = normal(120)
    proto = build(
        'net (float[N, 6] x) => (float[N, 20] y) { y = Gemm <transB = 1> (x, "w.weight", "w.bias") }',
        w__weight=array.reshape(20, 6),
        w__bias=normal(20),
    )
    model = from_proto(proto)
    plants = plant(model, ("w.bias", "w.weight"), {})
    assert all(set(edits.weights) == {"w.bias", "w.weight"} for edits in plants)
    largest, small, noisy = (planted(array, edits.weights["w.weight"]) for edits in plants)
    spread = np.unique(np.linspace(0, 119, 15).astype(int)).tolist()
    assert np.flatnonzero(largest != array).tolist() == [60]
    assert largest[60] == np.finfo(np.float32).max
    assert np.flatnonzero(small != array).tolist() == spread
    assert np.all(np.abs(small[spread[::2]]) < np.finfo(np.float32).tiny)
    assert np.all(small[spread] != 0)
    ordinary = small[spread[1::2]]
    assert np.all((np.abs(ordinary) >= 0.125) & (np.abs(ordinary) <= 2))
    assert {-1, 1} == set(np.sign(ordinary))
    assert np.flatnonzero(noisy != array).tolist() == spread
    assert np.array_equal(np.frexp(noisy)[1], np.frexp(array)[1])


def planted(array: NDArray[np.float32], edits: Iterable[WeightEdit]) -> NDArray[np.float32]:
    """The elements of ``array``, flat, with edits applied by numpy alone."""
    faulty = array.reshape(-1).copy()
    for element, mask in edits:
        faulty.view(np.uint32)[element] ^= np.uint32(mask)
    return faulty


def test_planted_faults_of_integers_flip_bits() -> None:
    model = from_proto(build("net (float[N, 2] x) => (float[N, 2] y) { y = Relu (x) }", W=np.array([1, 2, 3], np.int8)))
    first, *others = plant(model, ("W",), {})
    assert list(first.weights["W"]) == [(1, 0x80)]
    assert all([element for element, _ in edits.weights["W"]] == [0, 1, 2] for edits in others)
