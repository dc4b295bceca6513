"""Both engines with every neuron site of a model, neuron injections for them, and the comparison of all lanes."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bitswap_onnx.faults.bits import to_bits
from bitswap_onnx.faults.fault import Kind
from bitswap_onnx.graph.edits import ALL_INPUTS, InjectionEdits, NeuronEdit, WeightEdit
from bitswap_onnx.graph.model import from_proto
from bitswap_onnx.graph.neurons import operation
from bitswap_onnx.graph.sites import find_sites
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.runtime.incremental import IncrementalEngine
from bitswap_onnx.runtime.reference import ReferenceEngine
from bitswap_onnx.runtime.session import Numerics, open_session
from tests.builders import normal
from tests.runtime.engines import all_scores

COUNT = 11
Path = tuple[str, ...]
Pair = tuple[ReferenceEngine, IncrementalEngine]


def engines(proto: onnx.ModelProto, batch: int = 4, count: int = COUNT, **options: Any) -> Pair:
    """Both engines, with every site of the model."""
    model, output = from_proto(proto), proto.graph.output[0].name
    shape = tuple(dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim[1:])
    sites = {site.key: site for site in find_sites(Slicer(model, output, batch, shape))}
    x, numerics = normal(count, *shape, seed=9), Numerics(batch_size=batch, apart=True)
    scores = open_session(model, numerics, output).run(x)
    chosen: dict[str, Any] = {"paths": dict.fromkeys(((key,) for key in sites), 100), "min_batches": 0} | options
    return (
        ReferenceEngine(model, numerics, output, x, scores, sites),
        IncrementalEngine(model, numerics, output, x, scores, sites=sites, **chosen),
    )


def injections(engine: ReferenceEngine, path: Path, seed: int = 0) -> list[InjectionEdits]:
    """Of one input, of all, one each for every input, several at once; the top exponent bit among the bits."""
    draw = np.random.default_rng(seed)
    found: list[InjectionEdits] = []
    count = len(engine.inputs)
    for inputs in ([0], [count - 1], [ALL_INPUTS], [*range(count)], [1, 1, ALL_INPUTS], [2, 5]):
        weights: dict[str, list[WeightEdit]] = {}
        neurons: dict[str, list[NeuronEdit]] = {}
        for key in path:
            if key not in engine.sites:
                array = engine.model.tensor(key)
                weights[key] = [WeightEdit(int(draw.integers(array.size)), 1 << int(draw.integers(20, 31)))]
                continue
            site = engine.sites[key]
            top = site.format.width - 1
            for number in inputs:
                kind = draw.choice(np.array([Kind.FLIP, Kind.STUCK_AT_0, Kind.STUCK_AT_1, Kind.SET], object))
                operand = 0x7FC00001 if kind is Kind.SET else int(draw.choice([top, top - 1, int(draw.integers(top))]))
                edit = NeuronEdit(number, int(draw.integers(site.elements)), *operation(kind, operand, site.format))
                neurons.setdefault(key, []).append(edit)
        found.append(InjectionEdits(weights, neurons))
    return found


def bits_of(scores: NDArray[Any]) -> bytes:
    """The bits of scores, those of every NaN and zero alike: which payload or sign a kernel leaves is its own affair."""
    clean = scores.copy()
    clean[clean == 0] = 0
    clean[np.isnan(clean)] = np.nan
    return to_bits(clean).tobytes()


def assert_equal(pair: Pair, path: Path, seed: int = 0) -> set[str]:
    """The lane of a path and its stages give the reference engine's scores; return the kinds of both."""
    reference, engine = pair
    edits = injections(reference, path, seed)
    expected = bits_of(all_scores(reference, path, edits))
    assert bits_of(all_scores(engine, path, edits)) == expected, (path, engine.lane_kind(path))
    assert engine.control(path, 0, len(engine.inputs)) == len(engine.inputs)
    lanes: set[str] = {engine.lane_kind(path)}
    refuse = engine.min_batches, engine.paths
    engine.min_batches = 1 << 60  # the stages themselves
    engine.cache.drop(path)
    assert bits_of(all_scores(engine, path, edits)) == expected, (path, engine.lane_kind(path))
    lanes.add(engine.lane_kind(path))
    engine.min_batches, engine.paths = refuse
    engine.cache.drop(path)
    return lanes
