"""The incremental engine gives what the reference engine gives: every score, for every model, lane and batch."""

import pathlib
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from bitswap_onnx.faults.bits import to_bits
from bitswap_onnx.graph.edits import InjectionEdits, WeightEdit
from bitswap_onnx.graph.model import load_model
from bitswap_onnx.graph.signature import ModelInput
from bitswap_onnx.runtime.incremental import IncrementalEngine
from bitswap_onnx.runtime.layout import choose_layout
from bitswap_onnx.runtime.model_lanes import WholeLane
from bitswap_onnx.runtime.packed import PackedLane
from bitswap_onnx.runtime.reference import ReferenceEngine
from bitswap_onnx.runtime.session import Numerics, open_session
from tests.builders import build, cnn, normal
from tests.networks import MODELS, WITH_SEQUENCES, dags
from tests.runtime.engines import (
    NUMERICS,
    PLAIN,
    Path,
    all_scores,
    assert_equal,
    engines,
    injections,
)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("numerics", NUMERICS, ids=lambda n: f"{n.fusion}-{n.layout}")
@pytest.mark.parametrize("name", WITH_SEQUENCES)
def test_both_engines_give_the_same_scores(name: str, numerics: Numerics) -> None:
    reference, engine = engines(WITH_SEQUENCES[name], numerics)
    assert_equal(reference, engine, list(engine.paths))


@pytest.mark.slow
@pytest.mark.usefixtures("either_way")
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(dags(), st.sampled_from(NUMERICS), st.sampled_from([1, 3, 8, 16]), st.randoms(use_true_random=False))
def test_random_networks(proto: onnx.ModelProto, numerics: Numerics, size: int, random: Any) -> None:
    """40 inputs: kernels that round otherwise on the other side of a cut are found out by then."""
    reference, engine = engines(proto, replace(numerics, batch_size=size), count=40)
    assert_equal(reference, engine, random.sample(list(engine.paths), min(4, len(engine.paths))))


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("name", ["cnn", "mobile"])
@pytest.mark.parametrize("memory", [1, 1 << 15, 1 << 16])
def test_blocks_that_fit_the_memory(name: str, memory: int) -> None:
    """However the inputs are cut into blocks, and whatever golden values are shared between paths."""
    reference, engine = engines(MODELS[name], count=14, memory=memory)
    assert_equal(reference, engine, list(engine.paths))
    starts = {start for start, _ in engine.run(("fc.weight",), injections(engine, ("fc.weight",))[:1], 0, 14)}
    assert starts == {0, 4, 8, 12} or memory > 1


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize(("size", "count"), [(1, 1), (1, 3), (4, 1), (4, 3), (4, 4), (4, 5), (32, 5), (3, 9)])
@pytest.mark.parametrize("name", ["residual", "attention"])
def test_batches_and_what_is_left_of_them(name: str, size: int, count: int) -> None:
    reference, engine = engines(MODELS[name], replace(PLAIN, batch_size=size), count)
    assert_equal(reference, engine, list(engine.paths))


@pytest.mark.usefixtures("either_way")
def test_a_chunk_is_a_part_of_the_whole() -> None:
    reference, engine = engines(cnn(), count=19)
    for path in engine.paths:
        edits = injections(engine, path)
        expected = all_scores(reference, path, edits)
        for first, stop in ((8, 16), (16, 19), (0, 8)):
            found = all_scores(engine, path, edits, first, stop)
            assert np.array_equal(found, expected[:, first:stop], equal_nan=True)
            assert engine.control(path, first, stop) == stop - first


@pytest.mark.usefixtures("either_way")
def test_the_order_and_company_of_injections_do_not_matter() -> None:
    path = ("conv.weight",)
    reference, engine = engines(cnn())
    edits = [edit for seed in range(6) for edit in injections(engine, path, seed)]
    expected = all_scores(reference, path, edits)
    order = np.random.default_rng(0).permutation(len(edits))
    assert np.array_equal(all_scores(engine, path, edits), expected, equal_nan=True)
    assert np.array_equal(all_scores(engine, path, [edits[i] for i in order]), expected[order], equal_nan=True)
    assert np.array_equal(all_scores(engine, path, edits[5:6]), expected[5:6], equal_nan=True)


def test_more_channels_than_a_stretch_has_rows() -> None:
    """Such an injection runs as the whole model, between others that do not."""
    path = ("fc.weight",)
    reference, engine = engines(build(
        "net (float[N, 8] x) => (float[N, 40] y) { y = Gemm <transB = 1> (x, \"fc.weight\") }", fc__weight=normal(40, 8)
    ))  # fmt: skip
    wide = [
        InjectionEdits({path[0]: [WeightEdit(8 * channel, 1 << 30) for channel in range(channels)]})
        for channels in (3, 16, 17, 40, 1)
    ]
    assert isinstance(engine.lane(path), PackedLane)
    assert np.array_equal(all_scores(engine, path, wide), all_scores(reference, path, wide), equal_nan=True)


def test_a_satisfied_fault_beside_others_changes_nothing() -> None:
    path = ("conv.weight",)
    reference, engine = engines(cnn())
    several = [[(3, 0)], [(3, 0), (20, 1 << 30)], [(3, 5), (3, 5)]]
    edits = [InjectionEdits({path[0]: [WeightEdit(*edit) for edit in faults]}) for faults in several]
    found = all_scores(engine, path, edits)
    assert np.array_equal(found, all_scores(reference, path, edits), equal_nan=True)
    assert np.array_equal(found[[0, 2]], [engine.scores] * 2)


@pytest.mark.usefixtures("either_way")
def test_a_tensor_that_does_not_reach_the_scores() -> None:
    """Alone it changes nothing; beside another one it must not be in its way."""
    text = """net (float[N, 3] x) => (float[N, 4] y, float[N, 4] aside) {
        y = MatMul (x, "a.weight")
        aside = MatMul (x, "b.weight")
    }"""
    reference, engine = engines(build(text, a__weight=normal(3, 4), b__weight=normal(3, 4)))
    assert engine.lane_kind(("b.weight",)) == "whole"
    assert_equal(reference, engine, list(engine.paths))


@pytest.mark.parametrize("seed", [5, 6, 8, 9, 11])
def test_a_batch_norm_that_rounds_otherwise_only_when_it_is_faulty(seed: int) -> None:
    """Blocked kernels prepare a batch norm when they load it; three clean channels need not show the difference."""
    proto = build(
        """net (float[N, 1, 4, 4] x) => (float[N, 4] y) {
            a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, "c.weight")
            b = Relu (a)
            c = BatchNormalization (b, "n.weight", "n.bias", "n.mean", "n.var")
            d = GlobalAveragePool (c)
            e = Flatten (d)
            y = Gemm <transB = 1> (e, "fc.weight")
        }""",
        c__weight=normal(3, 1, 3, 3, seed=seed),
        n__weight=normal(3, seed=seed + 1),
        n__bias=normal(3, seed=seed + 2),
        n__mean=normal(3, seed=seed + 3),
        n__var=np.abs(normal(3, seed=seed + 4)) + np.float32(0.5),
        fc__weight=normal(4, 3, seed=seed + 5),
    )
    reference, engine = engines(proto, replace(PLAIN, layout="blocked"), 8)
    masks = np.random.default_rng(1).integers(1, 1 << 23, 24).tolist()
    for tensor in ("n.weight", "n.var"):
        edits = [InjectionEdits({tensor: [WeightEdit(i % 3, mask)]}) for i, mask in enumerate(masks)]
        expected = all_scores(reference, (tensor,), edits)
        assert np.array_equal(all_scores(engine, (tensor,), edits), expected), tensor


MIXED = {
    "softmax": "y = Softmax <axis = 0> (a)",
    "maximum": "m = ReduceMax <keepdims = 1> (a, first)\n y = Sub (a, m)",
    "mean": "m = ReduceMean <keepdims = 1> (a, first)\n y = Sub (a, m)",
    "running sum": "y = CumSum (a, zero)",
    "neighbours": "t = Transpose <perm = [1, 0]> (a)\n c = MatMul (t, M)\n y = Transpose <perm = [1, 0]> (c)",
}


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize(("size", "count"), [(4, 8), (4, 4), (4, 1), (4, 3)])
@pytest.mark.parametrize("name", MIXED)
def test_a_model_that_mixes_the_inputs_of_a_batch(name: str, size: int, count: int) -> None:
    """No two injections may share a batch there: whatever the lane, the scores are those of the whole model."""
    text = f'net (float[N, 5] x) => (float[N, 4] y) {{\n a = Gemm <transB = 1> (x, "fc.weight")\n {MIXED[name]}\n}}'
    tensors: dict[str, Any] = {"first": np.array([0]), "zero": np.int64(0), "M": normal(4, 4)}
    proto = build(text, fc__weight=normal(4, 5), **tensors)
    path = ("fc.weight",)
    reference, engine = engines(proto, replace(PLAIN, batch_size=size), count, paths={path: 100})
    assert_equal(reference, engine, [path])
    assert not isinstance(engine.lane(path), PackedLane)


UNTAKEN = build(
    """net (double[N, 6] x) => (double[N, 4] y) {
        a = MatMul (x, "w.weight")
        b = Mul (a, "s.scale")
        r = Relu (b)
        y = MatMul (r, "v.weight")
    }""",
    **{"w.weight": normal(6, 6, dtype=np.float64), "s.scale": np.array(0.125)},
    **{"v.weight": normal(6, 4, seed=1, dtype=np.float64)},
)
UNHELD = build(
    """net (float[N, 6] x) => (float[N, 4] y) {
        h = Cast <to = 16> (x)
        q = Cast <to = 1> (h)
        a = MatMul (q, "v.weight")
        b = Cast <to = 16> (a)
        c = Concat <axis = 1> (h, b)
        d = Cast <to = 1> (c)
        y = MatMul (d, "u.weight")
    }""",
    **{"v.weight": normal(6, 6), "u.weight": normal(12, 4, seed=1)},
)


def test_lanes_that_cannot_be_tried_are_not_taken() -> None:
    """A plant makes a factor Inf that the runtime refuses to fuse; a value has a type that arrays cannot hold."""
    reference, engine = engines(UNTAKEN, PLAIN, inputs=normal(7, 6, seed=9, dtype=np.float64))
    path, edits = ("s.scale",), [InjectionEdits({"s.scale": [WeightEdit(0, 1 << 3)]})]
    assert isinstance(engine.lane(path), WholeLane)
    assert np.array_equal(all_scores(engine, path, edits), all_scores(reference, path, edits))
    reference, engine = engines(UNHELD, PLAIN)
    assert_equal(reference, engine, list(engine.paths))


def test_sparse_tensors_stay_in_the_whole_model() -> None:
    proto = build(
        """net (float[N, 4] x) => (float[N, 4] y) {
            a = MatMul (x, "w.weight")
            b = Add (a, sparse)
            y = Relu (b)
        }""",
        **{"w.weight": normal(4, 4)},
    )
    values = numpy_helper.from_array(np.ones(1, np.float32), "sparse")
    places = numpy_helper.from_array(np.array([2]), "places")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [4]))
    reference, engine = engines(proto, PLAIN)
    assert_equal(reference, engine, [("w.weight",)])
    assert isinstance(engine.lane(("w.weight",)), WholeLane)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("number", [0.0, -0.0])
def test_a_sum_that_a_fault_makes_idle(number: float) -> None:
    """The runtime would remove it, and fuse the product before it into the kernel behind it."""
    proto = build(
        """net (float[N, 8] x) => (float[N, 6] y) {
            a = Gemm (x, "in.weight")
            b = Mul (a, "scale.weight")
            c = Add (b, "shift.weight")
            y = MatMul (c, "out.weight")
        }""",
        in__weight=normal(8, 8, seed=1),
        scale__weight=normal(1, 1, seed=2),
        shift__weight=normal(1, 1, seed=3),
        out__weight=normal(8, 6, seed=4),
    )
    reference, engine = engines(proto, replace(PLAIN, fusion="deployed", batch_size=1))
    (path,) = (path for path in engine.paths if path == ("shift.weight",))
    clean, wanted = (
        int(to_bits(np.atleast_1d(np.float32(n)))[0]) for n in (engine.model.tensor(path[0]).item(), number)
    )
    edits = [InjectionEdits({path[0]: [WeightEdit(0, clean ^ wanted)]})]
    assert np.array_equal(all_scores(engine, path, edits), all_scores(reference, path, edits))


def test_names_may_look_like_scopes() -> None:
    proto = build(
        """net (float[N, 1, 4, 4] x) => (float[N, 16] y) {
            a = Conv <kernel_shape = [3, 3]> (x, "onnx::Conv_7", "onnx::Conv_8")
            y = Flatten (a)
        }""",
        **{"onnx::Conv_7": normal(4, 1, 3, 3), "onnx::Conv_8": normal(4, seed=1)},
    )
    reference, engine = engines(proto, PLAIN)
    assert_equal(reference, engine, list(engine.paths))
    assert {engine.lane_kind(path) for path in engine.paths if len(path) == 1} == {"packed"}


def test_constants_that_lie_outside_the_file(tmp_path: pathlib.Path) -> None:
    """A kernel behind DequantizeLinear, everything in an external data file."""
    proto = build(
        """net (float[N, 2, 4, 4] x) => (float[N, 16] y) {
            w = DequantizeLinear <axis = 0> ("c.weight", "c.scale", "c.zero")
            a = Conv <kernel_shape = [3, 3]> (x, w)
            y = Flatten (a)
        }""",
        **{"c.weight": np.arange(-36, 36, dtype=np.int8).reshape(4, 2, 3, 3), "c.zero": np.zeros(4, np.int8)},
        **{"c.scale": np.abs(normal(4))},
    )
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, location="m.data")
    model, inputs = load_model(tmp_path / "m.onnx"), normal(7, 2, 4, 4)
    scores = open_session(model, PLAIN, "y").run(inputs)
    paths: dict[Path, int] = {("c.weight",): 1, ("c.scale",): 1}
    engine = IncrementalEngine(model, PLAIN, "y", inputs, scores, paths, min_batches=0)
    assert_equal(ReferenceEngine(model, PLAIN, "y", inputs, scores), engine, list(paths))
    assert choose_layout(model, PLAIN, "y", ModelInput("x", np.dtype(np.float32), (2, 4, 4), None))[0]
