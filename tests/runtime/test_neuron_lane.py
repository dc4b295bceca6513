"""Neuron faults on every lane: the scores of the whole model with flip nodes, and those of a model cut by hand."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bitswap_onnx.faults.bits import to_bits
from bitswap_onnx.faults.fault import Kind
from bitswap_onnx.graph.model import Model, from_proto
from bitswap_onnx.graph.neurons import ALL_INPUTS, operation
from bitswap_onnx.graph.receipts import InjectionEdits
from bitswap_onnx.graph.sites import NeuronSite, find_sites
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.graph.targets import find_targets
from bitswap_onnx.runtime.incremental import IncrementalEngine
from bitswap_onnx.runtime.lanes import ConeLane, Lane
from bitswap_onnx.runtime.neuron_lane import NeuronLane
from bitswap_onnx.runtime.reference import ReferenceEngine
from bitswap_onnx.runtime.session import Numerics, load, open_session
from tests.builders import build, cnn, normal
from tests.runtime.test_incremental import MODELS, all_scores, dags

COUNT = 11
Path = tuple[str, ...]
Pair = tuple[ReferenceEngine, IncrementalEngine]


def engines(proto: onnx.ModelProto, batch: int = 4, count: int = COUNT, **options: Any) -> Pair:
    """Both engines, with every site of the model."""
    model, output = from_proto(proto), proto.graph.output[0].name
    shape = tuple(dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim[1:])
    sites = {site.key: site for site in find_sites(Slicer(model, output, batch, shape))}
    x, numerics = normal(count, *shape, seed=9), Numerics(batch_size=batch)
    scores = open_session(model, numerics, output).run(x)
    chosen: dict[str, Any] = {"paths": dict.fromkeys(((key,) for key in sites), 100), "worth": 0} | options
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
        edits: dict[str, list[tuple[int, ...]]] = {}
        for key in path:
            if key not in engine.sites:
                array = engine.model.tensor(key)
                edits[key] = [(int(draw.integers(array.size)), 1 << int(draw.integers(20, 31)))]
                continue
            site = engine.sites[key]
            top = site.format.width - 1
            for number in inputs:
                kind = draw.choice(np.array([Kind.FLIP, Kind.STUCK_AT_0, Kind.STUCK_AT_1, Kind.SET], object))
                operand = 0x7FC00001 if kind is Kind.SET else int(draw.choice([top, top - 1, int(draw.integers(top))]))
                change = number, int(draw.integers(site.elements)), *operation(kind, operand, site.format)
                edits.setdefault(key, []).append(change)
        found.append(edits)
    return found


def bits_of(scores: NDArray[Any]) -> bytes:
    """The bits of scores, those of every NaN and zero alike: which payload or sign a kernel leaves is its own affair."""
    clean = scores.copy()
    clean[clean == 0] = 0
    clean[np.isnan(clean)] = np.nan
    return to_bits(clean).tobytes()


def lane_scores(lane: Lane, engine: IncrementalEngine, edits: Sequence[InjectionEdits], first: int, stop: int) -> Any:
    """The scores of injections over some inputs by one lane, in whatever blocks."""
    scores = np.stack([engine.scores[first:stop]] * len(edits))
    for start, block in engine._blocks(lane, first, stop):
        for faulty in lane.run(edits, block):
            for number, part in zip(faulty.numbers, faulty.parts, strict=True):
                scores[number, start - first + faulty.rows[part]] = faulty.scores[part]
    return scores


def assert_equal(pair: Pair, path: Path, seed: int = 0) -> set[str]:
    """Every exact lane of a path gives the reference engine's scores; return what the path's lanes are."""
    reference, engine = pair
    edits = injections(reference, path, seed)
    expected = bits_of(all_scores(reference, path, edits))
    assert bits_of(all_scores(engine, path, edits)) == expected, (path, engine.kind(path))
    assert engine.control(path, 0, len(engine.inputs)) == len(engine.inputs)
    held = [lane for lane in engine.candidates(path) if engine.holds(lane, path)]
    for lane in held:
        found = lane_scores(lane, engine, edits, 0, len(engine.inputs))
        assert bits_of(found) == expected, (path, type(lane).__name__)
    return {type(lane).__name__ for lane in held}


@pytest.mark.parametrize("name", [name for name in MODELS if name != "half"])
def test_every_site_of_every_model(name: str) -> None:
    pair = engines(MODELS[name])
    for path in pair[1].paths:
        ends = pair[1].sites[path[0]].value == pair[1].output
        assert assert_equal(pair, path) >= ({"NeuronLane"} if ends else {"NeuronLane", "ConeLane"}), path


@pytest.mark.parametrize(
    ("path", "lanes"),
    [
        (("@output:c", "@output:x"), {"ConeLane"}),
        (("@input:d", "@output:y"), {"ConeLane"}),
        (("@input:d", "@input:e"), {"ConeLane"}),
        (("@input:a", "@output:x"), {"ConeLane"}),
        (("@output:d", "a.weight"), {"ConeLane"}),
        (("@input:d", "fc.bias", "fc.weight"), {"ConeLane"}),
        (("@output:a", "@output:b", "@output:c", "@output:d", "@output:e", "@output:y", "bn.bias"), {"ConeLane"}),
        (("@output:x", "a.weight"), {"ConeLane"}),
    ],
)
def test_sites_behind_each_other_and_weights(path: Path, lanes: set[str]) -> None:
    pair = engines(MODELS["residual"], paths={path: 100})
    assert assert_equal(pair, path) == lanes


PARALLEL = """net (float[N, 6] x) => (float[N, 4] y) {
    a = MatMul (x, "a.weight")
    b = MatMul (x, "b.weight")
    c = Relu (b)
    d = Add (a, c)
    y = MatMul (d, "d.weight")
}"""


def parallel() -> onnx.ModelProto:
    return build(PARALLEL, a__weight=normal(6, 5), b__weight=normal(6, 5, seed=1), d__weight=normal(5, 4, seed=2))


@pytest.mark.parametrize("path", [("@output:a", "@output:b"), ("@input:a", "@input:b"), ("@input:a", "@output:c")])
def test_sites_beside_each_other_need_no_flip_node(path: Path) -> None:
    pair = engines(parallel(), paths={path: 100})
    assert assert_equal(pair, path) == {"NeuronLane", "ConeLane"}
    assert pair[1].kind(path) == "neuron"


def cut_by_hand(model: Model, numerics: Numerics, site: NeuronSite, x: NDArray[Any], edit: Any) -> NDArray[Any]:
    """Make a site's value an output, change it with numpy, and feed it to the same model in which it is an input."""
    before, after = onnx.ModelProto(), onnx.ModelProto()
    for copy in (before, after):
        copy.CopyFrom(model.proto)
    own = onnx.helper.make_tensor_value_info
    before.graph.output.append(own(site.value, onnx.TensorProto.FLOAT, None))
    source, output = model.proto.graph.input[0].name, model.proto.graph.output[0].name
    value = x if site.value == source else _session(before, numerics).run([site.value], {source: x})[0]
    value = np.ascontiguousarray(value).copy()
    edit(value.view(np.uint32).reshape(len(x), -1))
    after.graph.input.append(own("cut", onnx.TensorProto.FLOAT, ["N", *value.shape[1:]]))
    for node in after.graph.node:
        of_one = site.key.startswith("@input:")
        for slot, name in enumerate(node.input):
            meant = not of_one or (node.output[0], slot) == (site.key.removeprefix("@input:"), site.slot)
            node.input[slot] = "cut" if name == site.value and meant else name
    if site.value == output:
        return value
    return np.asarray(_session(after, numerics).run([output], {source: x, "cut": value})[0])


def _session(proto: onnx.ModelProto, numerics: Numerics) -> Any:
    return load(from_proto(proto), numerics)


@pytest.mark.parametrize("name", ["cnn", "residual", "mobile", "channels last"])
def test_models_cut_by_hand(name: str) -> None:
    reference, engine = engines(MODELS[name], batch=4, count=4)
    for key, site in engine.sites.items():
        element, mask = site.elements // 2, np.uint32(1 << 29 | 1 << 31 | 5)

        def edit(bits: NDArray[np.uint32], element: int = element, mask: np.uint32 = mask) -> None:
            bits[2, element] ^= mask

        expected = cut_by_hand(reference.model, reference.numerics, site, reference.inputs, edit)
        edits = [{key: [(2, element, 0xFFFFFFFF, int(mask))]}]
        for way in (reference, engine):
            (found,) = all_scores(way, (key,), edits)
            assert np.array_equal(found, expected.reshape(4, -1), equal_nan=True), (key, type(way).__name__)


def reaches_scores(engine: IncrementalEngine, key: str) -> bool:
    """Whether what a site holds is on the way to the scores (a test below is about those that are not)."""
    seen, pending = set[str](), [engine.output]
    nodes = engine.model.proto.graph.node
    while pending:
        name = pending.pop()
        if name not in seen:
            seen.add(name)
            pending += [read for node in nodes if name in node.output for read in node.input]
    return (engine.sites[key].value if key.startswith("@output:") else key.removeprefix("@input:")) in seen


@pytest.mark.slow
@settings(
    max_examples=25, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(dags(), st.sampled_from([1, 3, 8]), st.randoms(use_true_random=False))
def test_random_networks(proto: onnx.ModelProto, batch: int, random: Any) -> None:
    pair = engines(proto, batch, count=13)
    sites = [key for key in pair[1].sites if reaches_scores(pair[1], key)]
    tensors = sorted(target.tensor for target in find_targets(pair[1].model))
    several = tuple(sorted(random.sample(sites, min(3, len(sites)))))
    mixed = tuple(sorted([*random.sample(sites, 2), random.choice(tensors)]))
    paths = [*((key,) for key in random.sample(sites, min(3, len(sites)))), several, mixed]
    pair[1].paths = dict.fromkeys(paths, 100)
    for seed, path in enumerate(paths):
        assert_equal(pair, path, seed)


def test_paths_of_weights_beside_neurons_keep_their_lane() -> None:
    """Taps at the inputs of nodes are in the way of no packed head."""
    reference, engine = engines(MODELS["residual"], paths={("d.weight",): 100, ("@input:d",): 100})
    assert engine.kind(("d.weight",)) == "packed"
    edits: list[InjectionEdits] = [{"d.weight": [(i * 7, 1 << 30)]} for i in range(20)]
    found, expected = (all_scores(way, ("d.weight",), edits) for way in (engine, reference))
    assert bits_of(found) == bits_of(expected)


@pytest.mark.parametrize(
    ("path", "memory"),
    [
        (("@output:c",), 1),
        (("@output:c",), 1 << 13),
        (("@input:c", "@output:x"), 1),
        (("@output:c", "fc.bias"), 1 << 13),
    ],
)
def test_blocks_and_chunks_count_the_dataset_s_inputs(path: Path, memory: int) -> None:
    """Which input a fault names is its place in the dataset, however chunks and blocks begin."""
    reference, engine = engines(cnn(), count=11, memory=memory, paths={path: 100})
    edits = injections(reference, path)
    expected = all_scores(reference, path, edits)
    for first, stop in ((0, 11), (4, 8), (8, 11)):
        for way in (engine, reference):
            assert bits_of(all_scores(way, path, edits, first, stop)) == bits_of(expected[:, first:stop])
        for lane in engine.candidates(path):
            assert bits_of(lane_scores(lane, engine, edits, first, stop)) == bits_of(expected[:, first:stop])


@pytest.mark.parametrize(("batch", "count"), [(1, 1), (1, 3), (4, 1), (4, 4), (4, 5), (32, 5)])
def test_batches_and_what_is_left_of_them(batch: int, count: int) -> None:
    path = ("@output:c",)
    reference, engine = engines(MODELS["residual"], batch, count, paths={path: 100})
    edits: list[InjectionEdits] = [{path[0]: [(i, 3, 0xFFFFFFFF, 1 << 30)]} for i in range(count)]
    found, expected = (all_scores(way, path, edits) for way in (engine, reference))
    assert bits_of(found) == bits_of(expected)
    assert engine.kind(path) == "neuron"
    changed = (expected != engine.scores).any(axis=2)
    assert not changed[~np.eye(count, dtype=bool)].any()


@pytest.mark.parametrize("path", [("@output:c",), ("@input:d", "@output:y"), ("@output:e", "d.weight"), ("@output:y",)])
def test_golden_values_on_a_device(path: Path) -> None:
    pair = engines(MODELS["residual"], paths={path: 100, ("fc.weight",): 100}, device="cpu")
    assert_equal(pair, path)


def test_more_pairs_than_run_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitswap_onnx.runtime.neuron_lane._PAIRS", 16)
    path = ("@output:c",)
    pair = engines(MODELS["residual"], paths={path: 100})
    assert_equal(pair, path)


def test_the_lanes_that_are_meant_really_run() -> None:
    """Without this, an engine that always ran whole models would pass everything above."""
    paths: list[Path] = [("@output:x",), ("@input:scores",), ("@output:scores",), ("@output:a", "@output:b")]
    _, engine = engines(cnn(), paths=dict.fromkeys(paths, 100))
    assert [engine.kind(path) for path in paths] == ["neuron", "neuron", "neuron", "cone"]
    assert isinstance(engine.lane(paths[0]), NeuronLane)
    assert isinstance(engine.lane(paths[3]), ConeLane)
