"""Values that round otherwise elsewhere in memory: the table of operators against the installed runtime."""

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import helper

from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.faults.fault import Fault, Injection, Kind
from bitswap_onnx.graph.model import from_proto
from bitswap_onnx.graph.operators import OPERATORS, Place
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.runtime.cut_rules import CutRules
from bitswap_onnx.runtime.incremental import IncrementalEngine
from bitswap_onnx.runtime.memory import aligned, aligned_empty, is_aligned
from bitswap_onnx.runtime.place_check import between_rows, keeps_rows, transposition
from bitswap_onnx.runtime.session import Numerics, open_session
from tests.builders import build, normal, save

#: Numbers that kernels treat apart.
SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -1e-40]

LENGTHS = (1, 3, 7, 15, 16, 17, 31, 33, 63, 65, 91)

#: Attributes and further inputs that make an elementwise operator of one or two float inputs.
FORMS: dict[str, dict[str, Any]] = {"Mod": {"fmod": 1}}

KERNELS = """
from onnxruntime.capi.onnxruntime_pybind11_state import get_registered_ep_kernel_defs
for kernel in get_registered_ep_kernel_defs("CPUExecutionProvider"):
    print(kernel.domain + ":" + kernel.op_name if kernel.domain else kernel.op_name)
"""


@cache
def kernels() -> frozenset[str]:
    """The operators that the installed runtime has CPU kernels for."""
    return frozenset(subprocess.check_output([sys.executable, "-c", KERNELS], text=True).split())


def session_of(name: str, inputs: int, kind: int) -> ort.InferenceSession:
    node = helper.make_node(name, [f"x{i}" for i in range(inputs)], ["y"], **FORMS.get(name, {}))
    values = [helper.make_tensor_value_info(f"x{i}", kind, ["n"]) for i in range(inputs)]
    graph = helper.make_graph([node], "one", values, [helper.make_empty_tensor_value_info("y")])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def free_and_elementwise() -> list[str]:
    return sorted(
        name
        for name, known in OPERATORS.items()
        if known.place is Place.FREE and known.rows == "elementwise" and name in kernels()
    )


@pytest.mark.parametrize("name", free_and_elementwise())
def test_free_operators_give_the_same_bits_everywhere(name: str) -> None:
    """Numbers of every kind, alone and 64 times in a row, at lengths around the widest vectors."""
    draw = np.random.default_rng(0)
    tried = 0
    for kind, dtype in ((1, np.float32), (10, np.float16), (11, np.float64)):
        for inputs in (1, 2):
            try:
                session = session_of(name, inputs, kind)
                session.run(None, {f"x{i}": np.ones(2, dtype) for i in range(inputs)})
            except Exception:  # no kernel of this type, or inputs of another kind
                continue
            for length in LENGTHS:
                x = [(draw.standard_normal(length) * 3).astype(dtype) for _ in range(inputs)]
                for each in x:
                    hit = draw.integers(0, length, length // 2)
                    each[hit] = draw.choice(np.array(SPECIAL, dtype), len(hit))
                alone = session.run(None, {f"x{i}": aligned(each) for i, each in enumerate(x)})[0]
                many = session.run(None, {f"x{i}": aligned(np.tile(each, 64)) for i, each in enumerate(x)})[0]
                np.testing.assert_array_equal(bits(many).reshape(64, length), np.tile(bits(alone), (64, 1)), name)
                tried += 1
    if not tried:
        pytest.skip("takes no floats alone")


def bits(array: NDArray[Any]) -> NDArray[Any]:
    """Bits, all NaNs alike."""
    if array.dtype.kind != "f":
        return array
    clean = np.where(np.isnan(array), array.dtype.type(np.nan), array)
    return clean.view(f"u{array.dtype.itemsize}")


def test_the_table_names_operators_that_exist() -> None:
    known = kernels() | {schema.name for schema in onnx.defs.get_all_schemas()}
    known |= {f"{schema.domain}:{schema.name}" for schema in onnx.defs.get_all_schemas() if schema.domain}
    known |= {"Swish", "SimplifiedLayerNormalization", "Affine", "ParametricSoftplus", "ScaledTanh"}
    assert {name for name in OPERATORS if name not in known and not name.startswith("com.microsoft:")} == set()


def test_operators_with_a_kernel_that_the_table_leaves_out_are_not_cut_around() -> None:
    """The scan of all kernels: what is neither free nor checked runs as whole models."""
    left_out = {name for name in kernels() if ":" not in name and name not in OPERATORS}
    assert {"Loop", "Scan", "NonZero", "Unique", "Compress", "NonMaxSuppression", "RandomNormal", "If"} <= left_out
    assert not left_out & {"Conv", "Gemm", "Relu", "Softmax", "LSTM", "LayerNormalization"}


ROUNDED = ["Elu", "Selu", "Celu", "Softplus", "Mish", "Sin", "Cos"]


def small(operator: str, channels: int = 3, batch: int | str = 1, seed: int = 35) -> onnx.ModelProto:
    """The shape of a wrong count that was found: a convolution, an activation, a classifier, few elements."""
    draw = np.random.default_rng(seed)
    return build(
        f"""net (float[{batch}, 2, 3, 3] x) => (float[{batch}, 3] scores) {{
            a = Conv <kernel_shape = [1, 1]> (x, "conv.weight")
            b = {operator} (a)
            f = Flatten (b)
            scores = Gemm <transB = 1> (f, "fc.weight")
        }}""",
        conv__weight=draw.standard_normal((channels, 2, 1, 1)).astype("f4"),
        fc__weight=(draw.standard_normal((3, channels * 9)) * 0.3).astype("f4"),
    )


def plain_scores(proto: onnx.ModelProto, x: NDArray[Any], batch: int) -> NDArray[Any]:
    """A plain session over the same batches, the last one filled up with its last input."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"], disabled_optimizers=["NchwcTransformer"]
    )
    rows = [np.minimum(np.arange(first, first + batch), len(x) - 1) for first in range(0, len(x), batch)]
    return np.concatenate([session.run(None, {"x": aligned(x[own])})[0] for own in rows])[: len(x)]


def test_approximations_at_double_precision_mind_their_neighbours() -> None:
    """So no lane moves rows or channels around them, whole vectors or not."""
    text = """net (T[N, 8] x) => (T[N, 3] scores) {
        a = MatMul (x, "fc1.weight")
        b = Sin (a)
        scores = MatMul (b, "fc2.weight")
    }"""
    for kind, dtype, packs in (("float", np.float32, True), ("double", np.float64, False)):
        weights = {"fc1__weight": normal(8, 16, dtype=dtype), "fc2__weight": normal(16, 3, dtype=dtype)}
        model, numerics = from_proto(build(text.replace("T[", f"{kind}["), **weights)), Numerics(batch_size=32)
        x = normal(32, 8, dtype=dtype)
        scores = open_session(model, numerics, "scores").run(x)
        engine = IncrementalEngine(model, numerics, "scores", x, scores, {("fc1.weight",): 100}, min_batches=0)
        assert (engine.lane_kind(("fc1.weight",)) == "packed") is packs


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("operator", ROUNDED)
def test_scores_behind_a_rounding_operator_are_a_plain_sessions(operator: str, batch: int, tmp_path: Path) -> None:
    proto, x = small(operator, batch="N"), np.random.default_rng(134).standard_normal((5, 2, 3, 3)).astype("f4")
    path = save(proto, tmp_path / "net.onnx")
    np.savez(tmp_path / "net.npz", x=x)
    cells = [np.unravel_index(e, (3, 2, 1, 1)) for e in range(6)]
    places = [(tuple(map(int, cell)), bit) for cell in cells for bit in range(24)]
    injections = [Injection(f"f{i}", (Fault("conv", cell, bit),)) for i, (cell, bit) in enumerate(places)]
    settings = Settings(batch_size=batch, layout="plain")
    run_campaign(
        prepare(path, settings), injections, options=RunOptions(run=tmp_path / "run", workers=0, save_outputs=True)
    )
    for i, (cell, bit) in enumerate(places):
        faulty = onnx.ModelProto()
        faulty.CopyFrom(proto)
        weight = onnx.numpy_helper.to_array(faulty.graph.initializer[0]).copy()
        weight.view(np.uint32)[cell] ^= np.uint32(1 << bit)
        faulty.graph.initializer[0].raw_data = weight.tobytes()
        found = np.load(tmp_path / f"run/outputs/inj_f{i}.npy")
        np.testing.assert_array_equal(found, plain_scores(faulty, x, batch))


def check(body: str, *shape: int, batch: int, **tensors: Any) -> bool:
    """Whether the last node but one, the one in question, keeps rows in batches of one size."""
    dims = ", ".join(map(str, shape))
    proto = build(f"net (float[N, {dims}] x) => (float[N, 4] y) {{ {body} }}", **tensors)
    slicer = Slicer(from_proto(proto), "y", batch, shape)
    return keeps_rows(slicer, Numerics(batch_size=batch), between_rows(slicer, len(slicer.nodes) - 2))


@pytest.mark.parametrize(
    ("body", "keeps"),
    [
        ("a = Elu (x)  y = MatMul (a, W)", False),
        ("a = Relu (x)  y = MatMul (a, W)", True),
        ("a = Sigmoid (x)  y = MatMul (a, W)", True),
    ],
)
def test_equal_rows_show_a_tail(body: str, keeps: bool) -> None:
    assert check(body, 13, batch=7, W=normal(13, 4)) is keeps


def test_arrays_begin_where_vectors_do() -> None:
    for dtype, shape in ((np.float32, (3, 5)), (np.uint8, (7,)), (np.float16, ())):
        assert is_aligned(aligned_empty(shape, dtype))
        assert aligned_empty(shape, dtype).shape == shape
    values = np.arange(40, dtype=np.float32)[1:]
    moved = aligned(values)
    assert is_aligned(moved)
    np.testing.assert_array_equal(moved, values)
    assert aligned(moved) is moved


@pytest.mark.parametrize("first", ["InstanceNormalization (x, s, s)", "ReduceMean <keepdims = 1> (x, axes)"])
def test_scores_do_not_depend_on_the_address_of_the_inputs(first: str) -> None:
    proto = build(
        f"""net (float[N, 3, 7, 5] x) => (float[N, 3] y) {{
            a = {first}
            b = Add (x, a)
            c = GlobalAveragePool (b)
            y = Flatten (c)
        }}""",
        s=np.abs(normal(3)),
        axes=np.array([1, 2]),
    )
    session = open_session(from_proto(proto), Numerics(batch_size=1), "y")
    x = normal(9, 3, 7, 5)
    expected = np.concatenate([session.run(aligned(x[i : i + 1])) for i in range(9)])
    np.testing.assert_array_equal(session.run(x), expected)


def test_an_infinite_weight_beside_an_image_meets_its_zeros(tmp_path: Path) -> None:
    """Inf times the zeros around an image is NaN in some kernels and nothing in others: the whole model decides."""
    proto = build(
        """net (float[N, 2, 4, 6] x) => (float[N, 5] scores) {
            a = Conv <kernel_shape = [3, 3], pads = [0, 0, 1, 0], dilations = [2, 2], group = 2> (x, "conv.weight")
            b = Softmax <axis = 1> (a)
            f = Flatten (b)
            scores = Gemm <transB = 1> (f, "fc.weight")
        }""",
        conv__weight=normal(4, 1, 3, 3),
        fc__weight=normal(5, 8),
    )
    x = normal(8, 2, 4, 6, seed=1)
    path = save(proto, tmp_path / "net.onnx")
    np.savez(tmp_path / "net.npz", x=x)
    cells = [(c, 0, i, j) for c in range(4) for i in range(3) for j in range(3)]
    faults = [Fault("conv", cell, kind=Kind.SET, value="0x7f800000") for cell in cells]
    injections = [Injection(f"f{i}", (fault,)) for i, fault in enumerate(faults)]
    settings = Settings(batch_size=4, layout="plain")
    run_campaign(
        prepare(path, settings), injections, options=RunOptions(run=tmp_path / "run", workers=0, save_outputs=True)
    )
    for i, cell in enumerate(cells):
        faulty = onnx.ModelProto()
        faulty.CopyFrom(proto)
        weight = normal(4, 1, 3, 3)
        weight[cell] = np.inf
        faulty.graph.initializer[0].raw_data = weight.tobytes()
        np.testing.assert_array_equal(np.load(tmp_path / f"run/outputs/inj_f{i}.npy"), plain_scores(faulty, x, 4))


TURNED = """net (float[N, 2, 5] x) => (float[N, 3] scores) {
    a = MatMul (x, "a.weight")
    t = Transpose <perm = [0, 2, 1]> (a)
    r = Identity (t)
    m = ReduceMean <keepdims = 0> (r, axes)
    scores = Gemm <transB = 1> (m, "fc.weight")
}"""


def test_a_transposition_stays_with_its_readers() -> None:
    """The runtime moves it past them: the mean is then taken along rows of memory, which begin at other addresses."""
    proto = build(TURNED, a__weight=normal(5, 5), fc__weight=normal(3, 2, seed=1), axes=np.array([1]))
    slicer = Slicer(from_proto(proto), "scores", 6, (2, 5))
    assert [sorted(transposition(slicer, name)) for name in ("x", "a", "t", "r", "m")] == [[], [], [1], [1, 2], []]
    assert between_rows(slicer, 3) == {1, 2, 3}
    rules = CutRules(slicer, Numerics(batch_size=6))
    assert [rules.may_cut([name]) for name in ("a", "t", "r", "m")] == [True, False, False, True]
    assert CutRules(slicer, Numerics(batch_size=6, apart=True)).may_cut(["t"])


def test_the_mean_is_tried_as_the_runtime_takes_it() -> None:
    """Alone it adds over columns, and every row comes out alike; behind the transposition it adds over rows of 5 numbers."""
    proto = build(TURNED, a__weight=normal(5, 5), fc__weight=normal(3, 2, seed=1), axes=np.array([1]))
    slicer = Slicer(from_proto(proto), "scores", 6, (2, 5))
    assert keeps_rows(slicer, Numerics(batch_size=6), frozenset({3}))
    assert not keeps_rows(slicer, Numerics(batch_size=6), between_rows(slicer, 3))
