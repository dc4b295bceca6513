"""The incremental engine gives what the reference engine gives: every score, for every model, lane and batch."""

import pathlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from bitswap_onnx.faults.bits import FORMATS, to_bits
from bitswap_onnx.graph.heads import ROWS
from bitswap_onnx.graph.model import from_proto, load_model
from bitswap_onnx.graph.receipts import InjectionEdits
from bitswap_onnx.graph.signature import ModelInput
from bitswap_onnx.graph.targets import find_targets
from bitswap_onnx.runtime.device import DeviceLane
from bitswap_onnx.runtime.incremental import WHOLE, IncrementalEngine
from bitswap_onnx.runtime.lanes import ConeLane, Lane, WholeLane
from bitswap_onnx.runtime.layout import choose_layout
from bitswap_onnx.runtime.packed import PackedLane
from bitswap_onnx.runtime.probes import plant
from bitswap_onnx.runtime.reference import ReferenceEngine
from bitswap_onnx.runtime.session import Numerics, open_session
from tests.builders import build, cnn, normal

Engine = IncrementalEngine | ReferenceEngine
Path = tuple[str, ...]

PLAIN = Numerics(batch_size=4)
NUMERICS = [
    replace(PLAIN, fusion=fusion, layout=layout)  # type: ignore[arg-type]
    for fusion, layout in product(("framework", "deployed"), ("plain", "blocked"))
]


def engines(
    proto: onnx.ModelProto,
    numerics: Numerics = PLAIN,
    count: int = 7,
    inputs: NDArray[Any] | None = None,
    **options: Any,
) -> tuple[ReferenceEngine, IncrementalEngine]:
    """Both engines for one model over ``count`` random inputs, or the ``inputs`` given."""
    model = from_proto(proto)
    shape = [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim][1:]
    x = normal(count, *shape, seed=9) if inputs is None else inputs
    output = proto.graph.output[0].name
    scores = open_session(model, numerics, output).run(x)
    chosen: dict[str, Any] = {"paths": dict.fromkeys(paths(proto), 100), "worth": 0} | options
    return (
        ReferenceEngine(model, numerics, output, x, scores),
        IncrementalEngine(model, numerics, output, x, scores, **chosen),
    )


def paths(proto: onnx.ModelProto) -> list[Path]:
    """Every target alone, and all together."""
    tensors = sorted(target.tensor for target in find_targets(from_proto(proto)))
    return [*((tensor,) for tensor in tensors), *([tuple(tensors)] if len(tensors) > 1 else [])]


def injections(engine: Engine, path: Path, seed: int = 0) -> list[InjectionEdits]:
    """Flips of random bits and of the top exponent bit, stuck bits, and several faults at once in several channels."""
    draw = np.random.default_rng(seed)
    found: list[InjectionEdits] = []
    for kind in ("flip", "flip", "flip", "top", "top", "stuck", "several", "many"):
        edits: dict[str, list[tuple[int, int]]] = {}
        for tensor in path:
            array = engine.model.tensor(tensor)
            fmt = FORMATS[array.dtype.name]
            faults = {"several": 3, "many": ROWS + 4}.get(kind, 1)
            elements = draw.integers(array.size, size=faults).tolist()
            bits = [fmt.width - 2 if kind == "top" else int(draw.integers(fmt.width)) for _ in elements]
            masks = [1 << bit for bit in bits]
            if kind == "stuck":  # at 1, in the top bit of the exponent: no change where it is set
                value = int(to_bits(np.ascontiguousarray(array).reshape(-1))[elements[0]])
                masks = [~value & 1 << fmt.width - 2]
            edits[tensor] = list(zip(elements, masks, strict=True))
        found.append(edits)
    return found


def all_scores(
    engine: Engine, path: Path, edits: Sequence[InjectionEdits], first: int = 0, stop: int | None = None
) -> Any:
    """Return the scores of every injection over every input (injections, inputs, classes), each seen once."""
    stop = len(engine.inputs) if stop is None else stop
    scores = np.stack([engine.scores[first:stop]] * len(edits))
    seen = np.zeros(scores.shape[:2], int)
    for start, faulty in engine.run(path, edits, first, stop):
        for number, part in zip(faulty.numbers, faulty.parts, strict=True):
            scores[number, start - first + faulty.rows[part]] = faulty.scores[part]
            seen[number, start - first : start - first + faulty.inputs] += 1
    assert (seen == 1).all()
    return scores


def assert_equal(reference: ReferenceEngine, engine: IncrementalEngine, chosen: Sequence[Path]) -> None:
    """Both engines agree in every score of every path, and no fault changes nothing."""
    for path in chosen:
        edits = injections(engine, path)
        expected, found = all_scores(reference, path, edits), all_scores(engine, path, edits)
        where = f"{path} on {type(engine.lane(path)).__name__}"
        assert np.array_equal(found, expected, equal_nan=True), where
        numbers = ~np.isnan(expected) & (expected != 0)
        assert np.array_equal(to_bits(found)[numbers], to_bits(expected)[numbers]), where
        assert engine.control(path, 0, len(engine.inputs)) == len(engine.inputs), where


MODELS: dict[str, onnx.ModelProto] = {
    "cnn": cnn(),
    "residual": build(
        """net (float[N, 3, 6, 6] x) => (float[N, 4] y) {
            a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, "a.weight", "a.bias")
            b = BatchNormalization (a, "bn.weight", "bn.bias", "bn.mean", "bn.var")
            c = Relu (b)
            d = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (c, "d.weight")
            e = Add (d, c)
            f = Relu (e)
            g = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (f)
            h = Concat <axis = 1> (g, g)
            i = GlobalAveragePool (h)
            j = Flatten (i)
            y = Gemm <transB = 1> (j, "fc.weight", "fc.bias")
        }""",
        a__weight=normal(16, 3, 3, 3, seed=1),
        a__bias=normal(16, seed=2),
        bn__weight=normal(16, seed=3),
        bn__bias=normal(16, seed=4),
        bn__mean=normal(16, seed=5),
        bn__var=np.abs(normal(16, seed=6)) + np.float32(0.5),
        d__weight=normal(16, 16, 3, 3, seed=7) / np.float32(12),
        fc__weight=normal(4, 32, seed=8),
        fc__bias=normal(4, seed=9),
    ),
    "mobile": build(
        """net (float[N, 16, 5, 5] x) => (float[N, 3] y) {
            a = Conv <kernel_shape = [1, 1]> (x, "a.weight")
            b = Clip (a, zero, six)
            c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], group = 32> (b, "dw.weight", "dw.bias")
            d = PRelu (c, "p.weight")
            e = Conv <kernel_shape = [3, 3], strides = [2, 2], group = 4> (d, "g.weight")
            f = AveragePool <kernel_shape = [2, 2]> (e)
            g = Flatten (f)
            h = MatMul (g, "fc.weight")
            y = Add (h, "fc.bias")
        }""",
        a__weight=normal(32, 16, 1, 1, seed=1),
        dw__weight=normal(32, 1, 3, 3, seed=2),
        dw__bias=normal(32, seed=3),
        p__weight=normal(32, 1, 1, seed=4),
        g__weight=normal(16, 8, 3, 3, seed=5),
        fc__weight=normal(16, 3, seed=6),
        fc__bias=normal(3, seed=7),
        zero=np.float32(0),
        six=np.float32(6),
    ),
    "attention": build(
        """net (float[N, 5, 8] x) => (float[N, 6] y) {
            q = MatMul (x, "q.weight")
            qb = Add (q, "q.bias")
            k = MatMul (x, "k.weight")
            kt = Transpose <perm = [0, 2, 1]> (k)
            s = MatMul (qb, kt)
            p = Softmax <axis = -1> (s)
            v = MatMul (x, "v.weight")
            a = MatMul (p, v)
            l = LayerNormalization <axis = -1> (a, "ln.weight", "ln.bias")
            g = Gelu (l)
            m = ReduceMean <keepdims = 0> (g, one)
            y = MatMul (m, "fc.weight")
        }""",
        q__weight=normal(8, 8, seed=1),
        q__bias=normal(8, seed=2),
        k__weight=normal(8, 8, seed=3),
        v__weight=normal(8, 8, seed=4),
        ln__weight=normal(8, seed=5),
        ln__bias=normal(8, seed=6),
        fc__weight=normal(8, 6, seed=7),
        one=np.array([1]),
    ),
    "channels last": build(
        """net (float[N, 6, 6, 3] x) => (float[N, 4] y) {
            t = Transpose <perm = [0, 3, 1, 2]> (x)
            w = Transpose <perm = [3, 2, 0, 1]> ("a/kernel")
            a = Conv <kernel_shape = [3, 3], strides = [2, 2]> (t, w)
            b = Transpose <perm = [0, 2, 3, 1]> (a)
            c = Add (b, "a/bias")
            d = Sigmoid (c)
            e = ReduceMean <keepdims = 0> (d, middle)
            f = Gemm (e, "fc/kernel", "fc/bias")
            y = Softmax <axis = -1> (f)
        }""",
        **{"a/kernel": normal(3, 3, 3, 8, seed=1), "a/bias": normal(8, seed=2)},
        **{"fc/kernel": normal(8, 4, seed=3), "fc/bias": normal(4, seed=4)},
        middle=np.array([1, 2]),
    ),
    "shared": build(
        """net (float[N, 4, 4, 4] x) => (float[N, 64] y) {
            a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, "w.weight")
            b = Tanh (a)
            c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (b, "w.weight", "w.bias")
            d = ConvTranspose <kernel_shape = [1, 1]> (c, "t.weight")
            y = Flatten (d)
        }""",
        w__weight=normal(4, 4, 3, 3, seed=1),
        w__bias=normal(4, seed=2),
        t__weight=normal(4, 4, 1, 1, seed=3),
    ),
    "half": build(
        """net (float[N, 6] x) => (float[N, 4] y) {
            h = Cast <to = 10> (x)
            a = Gemm <transB = 1> (h, "a.weight", "a.bias")
            b = Relu (a)
            y = Gemm <transB = 1> (b, "b.weight")
        }""",
        a__weight=normal(20, 6, dtype=np.float16),
        a__bias=normal(20, seed=1, dtype=np.float16),
        b__weight=normal(4, 20, seed=2, dtype=np.float16),
    ),
}  # fmt: skip
MODELS["half"].graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16


@pytest.mark.parametrize("numerics", NUMERICS, ids=lambda n: f"{n.fusion}-{n.layout}")
@pytest.mark.parametrize("name", MODELS)
def test_both_engines_give_the_same_scores(name: str, numerics: Numerics) -> None:
    reference, engine = engines(MODELS[name], numerics)
    assert_equal(reference, engine, list(engine.paths))


class _Dag:
    """A random classifier of images: each step reads values made before it, and adds one."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.nodes: list[onnx.NodeProto] = []
        self.stored: list[onnx.TensorProto] = []
        self.shapes: dict[str, tuple[int, int]] = {}  # value → channels and size

    def pick(self, *choices: Any) -> Any:
        return self.draw(st.sampled_from(choices))

    def weight(self, *shape: int, positive: bool = False) -> str:
        name = f"t{len(self.stored)}.weight"
        values = normal(*shape, seed=len(self.stored)) / np.float32(max(1, np.prod(shape[1:]) ** 0.5))
        self.stored.append(numpy_helper.from_array(np.abs(values) + np.float32(0.5) if positive else values, name))
        return name

    def add(self, op: str, inputs: Sequence[str], channels: int, size: int, **attributes: Any) -> None:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        self.shapes[name] = channels, size

    def step(self) -> None:
        value = self.pick(*list(self.shapes)[-3:])
        channels, size = self.shapes[value]
        kind = self.pick(
            "conv", "conv", "conv", "depthwise", "grouped", "up", "bn", "bn", "relu", "join", "join", "pool"
        )
        if kind in ("conv", "grouped", "depthwise"):
            self.convolve(kind, value, channels, size)
        elif kind == "up" and size < 8:
            weight = self.weight(channels, out := self.pick(3, 16), 2, 2)
            self.add("ConvTranspose", [value, weight], out, size + 1, kernel_shape=[2, 2])
        elif kind == "bn":
            parameters = [self.weight(channels, positive=i == 3) for i in range(4)]
            self.add("BatchNormalization", [value, *parameters], channels, size)
        elif kind == "join":
            same = [name for name, shape in self.shapes.items() if shape == (channels, size)]
            other = self.pick(*same)
            if self.pick(True, False):
                self.add("Add", [value, other], channels, size)
            elif channels <= 32:
                self.add("Concat", [value, other], 2 * channels, size, axis=1)
        elif kind == "pool" and size > 2:
            pool = self.pick("MaxPool", "AveragePool")
            self.add(pool, [value], channels, size - 1, kernel_shape=[2, 2])
        else:
            self.add(self.pick("Relu", "Relu", "LeakyRelu", "Sigmoid", "HardSwish"), [value], channels, size)

    def convolve(self, kind: str, value: str, channels: int, size: int) -> None:
        group, out = {"conv": (1, self.pick(3, 8, 16, 32)), "depthwise": (channels, channels * self.pick(1, 1, 2))}.get(
            kind, (4 if channels % 4 == 0 else 1, 16)
        )
        shape = (out, channels // group, 3, 3)
        tied = [t.name for t in self.stored if tuple(t.dims) == shape]
        inputs = [value, self.pick(*tied, None) or self.weight(*shape)]
        if self.pick(True, False):
            inputs.append(self.weight(out))
        stride = self.pick(1, 1, 2)
        attributes = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [stride, stride], "group": group}
        self.add("Conv", inputs, out, (size - 1) // stride + 1, **attributes)

    def model(self) -> onnx.ModelProto:
        channels, size = self.pick(1, 3, 16), self.pick(4, 5)
        self.shapes["x"] = channels, size
        for _ in range(self.draw(st.integers(2, 9))):
            self.step()
        last = list(self.shapes)[-1]
        width, side = self.shapes[last]
        if self.pick(True, False):
            self.add("GlobalAveragePool", [last], width, 1)
            last, side = f"v{len(self.nodes) - 1}", 1
        self.add("Flatten", [last], 0, 0)
        classes = self.pick(4, 20)
        gemm = [f"v{len(self.nodes) - 1}", self.weight(classes, width * side * side), self.weight(classes)]
        self.nodes.append(helper.make_node("Gemm", gemm, ["y"], transB=1))
        value = helper.make_tensor_value_info
        x, y = value("x", 1, ["N", channels, size, size]), value("y", 1, ["N", classes])
        graph = helper.make_graph(self.nodes, "dag", [x], [y], self.stored)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


@st.composite
def dags(draw: st.DrawFn) -> onnx.ModelProto:
    return _Dag(draw).model()


@pytest.mark.slow
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(dags(), st.sampled_from(NUMERICS), st.sampled_from([1, 3, 8, 16]), st.randoms(use_true_random=False))
def test_random_networks(proto: onnx.ModelProto, numerics: Numerics, size: int, random: Any) -> None:
    """40 inputs: kernels that round otherwise on the other side of a cut are found out by then."""
    reference, engine = engines(proto, replace(numerics, batch_size=size), count=40)
    assert_equal(reference, engine, random.sample(list(engine.paths), min(4, len(engine.paths))))


def lanes_of(engine: IncrementalEngine) -> dict[Path, type]:
    return {path: type(engine.lane(path)) for path in engine.paths}


def test_the_lanes_that_are_meant_really_run() -> None:
    """Without this, an engine that always ran whole models would pass everything above."""
    _, engine = engines(cnn())
    *alone, together = engine.paths
    assert lanes_of(engine) == {**dict.fromkeys(alone, PackedLane), together: ConeLane}
    _, engine = engines(MODELS["residual"], replace(PLAIN, layout="blocked"))
    assert lanes_of(engine)[("d.weight",)] is PackedLane
    _, engine = engines(MODELS["shared"])
    assert lanes_of(engine) == {
        ("t.weight",): PackedLane,
        ("w.bias",): PackedLane,
        ("w.weight",): ConeLane,
        ("t.weight", "w.bias", "w.weight"): ConeLane,
    }


def test_few_inferences_are_not_worth_a_search() -> None:
    path = ("conv.weight",)
    _, engine = engines(cnn(), worth=8, paths={path: 7}, count=8)
    assert engine.found(path) == WHOLE
    engine.expect({path: 8})
    assert engine.found(path) == 0
    lane = engine.lane(path)
    other = ("fc.weight",)
    assert engine._shared == lane.values
    engine.expect({path: 9, other: 9})
    assert engine.lane(path) is lane
    assert engine._shared == lane.values | engine.lane(other).values > lane.values
    _, engine = engines(cnn(), worth=8, paths={path: 8}, count=8)
    assert engine.found(path) == 0


@pytest.mark.parametrize("name", ["cnn", "mobile"])
@pytest.mark.parametrize("memory", [1, 1 << 15, 1 << 16])
def test_blocks_that_fit_the_memory(name: str, memory: int) -> None:
    """However the inputs are cut into blocks, and whatever golden values are shared between paths."""
    reference, engine = engines(MODELS[name], count=14, memory=memory)
    assert_equal(reference, engine, list(engine.paths))
    starts = {start for start, _ in engine.run(("fc.weight",), injections(engine, ("fc.weight",))[:1], 0, 14)}
    assert starts == {0, 4, 8, 12} or memory > 1


@pytest.mark.parametrize(("size", "count"), [(1, 1), (1, 3), (4, 1), (4, 3), (4, 4), (4, 5), (32, 5), (3, 9)])
@pytest.mark.parametrize("name", ["residual", "attention"])
def test_batches_and_what_is_left_of_them(name: str, size: int, count: int) -> None:
    reference, engine = engines(MODELS[name], replace(PLAIN, batch_size=size), count)
    assert_equal(reference, engine, list(engine.paths))


def test_a_chunk_is_a_part_of_the_whole() -> None:
    reference, engine = engines(cnn(), count=19)
    for path in engine.paths:
        edits = injections(engine, path)
        expected = all_scores(reference, path, edits)
        for first, stop in ((8, 16), (16, 19), (0, 8)):
            found = all_scores(engine, path, edits, first, stop)
            assert np.array_equal(found, expected[:, first:stop], equal_nan=True)
            assert engine.control(path, first, stop) == stop - first


def test_the_order_and_company_of_injections_do_not_matter() -> None:
    path = ("conv.weight",)
    reference, engine = engines(cnn())
    edits = [edit for seed in range(6) for edit in injections(engine, path, seed)]
    expected = all_scores(reference, path, edits)
    order = np.random.default_rng(0).permutation(len(edits))
    assert np.array_equal(all_scores(engine, path, edits), expected, equal_nan=True)
    assert np.array_equal(all_scores(engine, path, [edits[i] for i in order]), expected[order], equal_nan=True)
    assert np.array_equal(all_scores(engine, path, edits[5:6]), expected[5:6], equal_nan=True)


def test_more_channels_than_a_head_has_rows() -> None:
    """Such an injection runs as the whole model, between others that do not."""
    path = ("fc.weight",)
    reference, engine = engines(build(
        "net (float[N, 8] x) => (float[N, 40] y) { y = Gemm <transB = 1> (x, \"fc.weight\") }", fc__weight=normal(40, 8)
    ))  # fmt: skip
    wide = [{path[0]: [(8 * channel, 1 << 30) for channel in range(channels)]} for channels in (3, 16, 17, 40, 1)]
    assert isinstance(engine.lane(path), PackedLane)
    assert np.array_equal(all_scores(engine, path, wide), all_scores(reference, path, wide), equal_nan=True)


def test_a_satisfied_fault_beside_others_changes_nothing() -> None:
    path = ("conv.weight",)
    reference, engine = engines(cnn())
    edits = [{path[0]: [(3, 0)]}, {path[0]: [(3, 0), (20, 1 << 30)]}, {path[0]: [(3, 5), (3, 5)]}]
    found = all_scores(engine, path, edits)
    assert np.array_equal(found, all_scores(reference, path, edits), equal_nan=True)
    assert np.array_equal(found[[0, 2]], [engine.scores] * 2)


def test_a_tensor_that_does_not_reach_the_scores() -> None:
    """Alone it changes nothing; beside another one it must not be in its way."""
    text = """net (float[N, 3] x) => (float[N, 4] y, float[N, 4] aside) {
        y = MatMul (x, "a.weight")
        aside = MatMul (x, "b.weight")
    }"""
    reference, engine = engines(build(text, a__weight=normal(3, 4), b__weight=normal(3, 4)))
    assert engine.found(("b.weight",)) == WHOLE
    assert_equal(reference, engine, list(engine.paths))


def test_what_one_engine_found_another_one_trusts() -> None:
    reference, engine = engines(MODELS["shared"])
    _, other = engines(MODELS["shared"])
    for path in engine.paths:
        other.trust(path, engine.found(path))
        assert other.found(path) == engine.found(path)
    assert lanes_of(other) == lanes_of(engine)
    assert_equal(reference, other, list(other.paths))


def test_what_is_found_already_stays() -> None:
    _, engine = engines(cnn())
    path = ("conv.weight",)
    lane = engine.lane(path)
    engine.trust(path, WHOLE)
    assert engine.lane(path) is lane
    _, other = engines(cnn())
    other.trust(path, WHOLE)
    assert isinstance(other.lane(path), WholeLane)


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
        edits = [{tensor: [(i % 3, mask)]} for i, mask in enumerate(masks)]
        expected = all_scores(reference, (tensor,), edits)
        assert np.array_equal(all_scores(engine, (tensor,), edits), expected), tensor


MIXED = {
    "softmax": "y = Softmax <axis = 0> (a)",
    "maximum": "m = ReduceMax <keepdims = 1> (a, first)\n y = Sub (a, m)",
    "mean": "m = ReduceMean <keepdims = 1> (a, first)\n y = Sub (a, m)",
    "running sum": "y = CumSum (a, zero)",
    "neighbours": "t = Transpose <perm = [1, 0]> (a)\n c = MatMul (t, M)\n y = Transpose <perm = [1, 0]> (c)",
}


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


class _Refusing(IncrementalEngine):
    """An engine for which only some candidates are exact."""

    exact: tuple[type, ...] = ()

    def is_exact(self, lane: Lane) -> bool:
        return isinstance(lane, self.exact) and super().is_exact(lane)


@pytest.mark.parametrize("exact", [(), (ConeLane,), (PackedLane,)])
def test_every_lane_gives_the_same(exact: tuple[type, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Refusing, "exact", exact)
    reference, engine = engines(cnn())
    refusing = _Refusing(
        engine.model, engine.numerics, engine.output, engine.inputs, engine.scores, engine.paths, worth=0
    )
    *alone, together = refusing.paths
    assert {type(refusing.lane(path)) for path in alone} == {exact[0] if exact else WholeLane}
    assert type(refusing.lane(together)) is (ConeLane if ConeLane in exact else WholeLane)
    assert_equal(reference, refusing, list(refusing.paths))


@pytest.mark.parametrize("numerics", NUMERICS, ids=lambda n: f"{n.fusion}-{n.layout}")
@pytest.mark.parametrize("name", ["cnn", "residual", "mobile"])
def test_golden_values_on_a_device(name: str, numerics: Numerics) -> None:
    """What runs on a GPU, with the CPU as the device."""
    reference, engine = engines(MODELS[name], numerics)
    engine.device = "cpu"
    assert_equal(reference, engine, list(engine.paths))
    assert any(isinstance(engine.lane(path), DeviceLane) for path in engine.paths)


def test_planted_faults_make_every_kind_of_number() -> None:
    array = normal(120)
    proto = build(
        'net (float[N, 6] x) => (float[N, 20] y) { y = Gemm <transB = 1> (x, "w.weight", "w.bias") }',
        w__weight=array.reshape(20, 6),
        w__bias=normal(20),
    )
    model = from_proto(proto)
    plants = plant(model, ("w.bias", "w.weight"), {})
    assert all(set(edits) == {"w.bias", "w.weight"} for edits in plants)
    largest, small, noisy = (planted(array, edits["w.weight"]) for edits in plants)
    spread = np.unique(np.linspace(0, 119, 16).astype(int)).tolist()
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


def planted(array: NDArray[np.float32], edits: Iterable[tuple[int, ...]]) -> NDArray[np.float32]:
    """The elements of ``array``, flat, with edits applied by numpy alone."""
    faulty = array.reshape(-1).copy()
    for element, mask in edits:
        faulty.view(np.uint32)[element] ^= np.uint32(mask)
    return faulty


def test_planted_faults_of_integers_flip_bits() -> None:
    model = from_proto(build("net (float[N, 2] x) => (float[N, 2] y) { y = Relu (x) }", W=np.array([1, 2, 3], np.int8)))
    first, *others = plant(model, ("W",), {})
    assert list(first["W"]) == [(1, 0x80)]
    assert all([element for element, _ in edits["W"]] == [0, 1, 2] for edits in others)


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
    path, edits = ("s.scale",), [{"s.scale": [(0, 1 << 3)]}]
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
    assert {engine.kind(path) for path in engine.paths if len(path) == 1} == {"packed"}


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
    engine = IncrementalEngine(model, PLAIN, "y", inputs, scores, paths, worth=0)
    assert_equal(ReferenceEngine(model, PLAIN, "y", inputs, scores), engine, list(paths))
    assert choose_layout(model, PLAIN, "y", ModelInput("x", np.dtype(np.float32), (2, 4, 4), None))


def test_lanes_are_forgotten_where_the_memory_is_short() -> None:
    reference, engine = engines(MODELS["residual"], PLAIN)
    engine.memory = 1
    assert_equal(reference, engine, list(engine.paths))
    assert len(engine._lanes) == 1
    assert_equal(reference, engine, list(engine.paths)[:3])


@pytest.mark.parametrize("name", ["half", "attention"])
def test_auto_layout_is_plain_without_convolutions(name: str) -> None:
    model = from_proto(MODELS[name])
    shape = {"half": (6,), "attention": (5, 8)}[name]
    assert choose_layout(model, PLAIN, "y", ModelInput("x", np.dtype(np.float32), shape, None)).layout == "plain"


def test_auto_layout_is_the_same_whenever_it_is_asked_for() -> None:
    model = from_proto(MODELS["residual"])
    spec = ModelInput("x", np.dtype(np.float32), (3, 6, 6), None)
    first, again = (choose_layout(model, PLAIN, "y", spec) for _ in range(2))
    assert first == again
    assert replace(first, layout="plain") == PLAIN
