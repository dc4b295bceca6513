"""Neuron faults on every lane: the scores of the whole model with flip nodes, and those of a model cut by hand."""

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bitswap_onnx.graph.edits import InjectionEdits, NeuronEdit, WeightEdit
from bitswap_onnx.graph.model import Model, from_proto
from bitswap_onnx.graph.sites import NeuronSite
from bitswap_onnx.graph.targets import find_targets
from bitswap_onnx.runtime.incremental import IncrementalEngine
from bitswap_onnx.runtime.session import Numerics, load
from tests.builders import build, cnn, normal
from tests.networks import MODELS, dags
from tests.runtime.engines import all_scores
from tests.runtime.neuron_engines import Path, assert_equal, bits_of, engines, injections


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("name", [name for name in MODELS if name != "half"])
def test_every_site_of_every_model(name: str) -> None:
    pair = engines(MODELS[name])
    assert all("neuron" in assert_equal(pair, path) for path in pair[1].paths)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize(
    "path",
    [
        ("@output:c", "@output:x"),
        ("@input:d", "@output:y"),
        ("@input:d", "@input:e"),
        ("@input:a", "@output:x"),
        ("@output:d", "a.weight"),
        ("@input:d", "fc.bias", "fc.weight"),
        ("@output:a", "@output:b", "@output:c", "@output:d", "@output:e", "@output:y", "bn.bias"),
        ("@output:x", "a.weight"),
    ],
)
def test_sites_behind_each_other_and_weights(path: Path) -> None:
    pair = engines(MODELS["residual"], paths={path: 100})
    assert assert_equal(pair, path) <= {"stages", "whole"}


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
    assert "neuron" in assert_equal(pair, path)


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
        edits = [InjectionEdits(neurons={key: [NeuronEdit(2, element, 0xFFFFFFFF, int(mask))]})]
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


@pytest.mark.usefixtures("either_way")
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


@pytest.mark.usefixtures("either_way")
def test_paths_of_weights_beside_neurons_keep_their_lane() -> None:
    """Taps at the inputs of nodes are in the way of no packed stretch."""
    reference, engine = engines(MODELS["residual"], paths={("d.weight",): 100, ("@input:d",): 100})
    assert engine.lane_kind(("d.weight",)) == "packed"
    edits = [InjectionEdits({"d.weight": [WeightEdit(i * 7, 1 << 30)]}) for i in range(20)]
    found, expected = (all_scores(way, ("d.weight",), edits) for way in (engine, reference))
    assert bits_of(found) == bits_of(expected)


@pytest.mark.usefixtures("either_way")
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


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize(("batch", "count"), [(1, 1), (1, 3), (4, 1), (4, 4), (4, 5), (32, 5)])
def test_batches_and_what_is_left_of_them(batch: int, count: int) -> None:
    path = ("@output:c",)
    reference, engine = engines(MODELS["residual"], batch, count, paths={path: 100})
    edits = [InjectionEdits(neurons={path[0]: [NeuronEdit(i, 3, 0xFFFFFFFF, 1 << 30)]}) for i in range(count)]
    found, expected = (all_scores(way, path, edits) for way in (engine, reference))
    assert bits_of(found) == bits_of(expected)
    assert engine.lane_kind(path) == "neuron"
    changed = (expected != engine.scores).any(axis=2)
    assert not changed[~np.eye(count, dtype=bool)].any()


@pytest.mark.usefixtures("divided")
def test_the_lanes_that_are_meant_really_run() -> None:
    """Without this test, an engine that always ran whole models would pass the tests above."""
    paths: list[Path] = [("@output:x",), ("@input:scores",), ("@output:scores",), ("@output:a", "@output:b")]
    _, engine = engines(cnn(), paths=dict.fromkeys(paths, 100))
    assert [engine.lane_kind(path) for path in paths] == ["neuron", "neuron", "neuron", "stages"]
