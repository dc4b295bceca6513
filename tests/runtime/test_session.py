"""Sessions: what should be off is off in the graph that runs, and scores are numpy's."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from bitswap_onnx.errors import DataError, ModelError
from bitswap_onnx.graph.model import Model, from_proto
from bitswap_onnx.runtime import session as session_module
from bitswap_onnx.runtime.golden import golden_run, score_fingerprint
from bitswap_onnx.runtime.session import Numerics, choose_provider, open_session, runtime_conflict
from tests.builders import build, cnn, normal

WIDE = build(
    """net (float[N, 16, 8, 8] x) => (float[N, 16, 8, 8] y) {
        a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, "c.weight")
        b = BatchNormalization (a, "bn.weight", "bn.bias", "bn.mean", "bn.var")
        c = Relu (b)
        d = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (c, "d.weight")
        e = Mul (d, "scale")
        y = Add (e, "shift")
    }""",
    c__weight=normal(16, 16, 3, 3),
    d__weight=normal(16, 16, 3, 3, seed=1),
    bn__weight=normal(16),
    bn__bias=normal(16),
    bn__mean=normal(16),
    bn__var=np.abs(normal(16)) + np.float32(1),
    scale=normal(1, 16, 1, 1),
    shift=normal(1, 16, 1, 1),
)


def optimized(tmp_path: Path, numerics: Numerics) -> onnx.ModelProto:
    """Return the graph that the runtime really runs."""
    open_session(from_proto(WIDE), numerics, "y", str(tmp_path / "optimized.onnx"))
    return onnx.load(tmp_path / "optimized.onnx")


def operators(proto: onnx.ModelProto) -> set[tuple[str, str]]:
    return {(node.domain, node.op_type) for node in proto.graph.node}


@pytest.mark.parametrize("layout", ["plain", "blocked"])
def test_fusion_framework_keeps_what_the_framework_computes_apart(tmp_path: Path, layout: str) -> None:
    """In the plain layout the nodes are still there; NCHWc turns batch-norm into a convolution of its own."""
    proto = optimized(tmp_path, Numerics(layout="plain" if layout == "plain" else "blocked"))
    kernels = {tensor.name for tensor in proto.graph.initializer}
    if layout == "plain":
        assert {("", "Conv"), ("", "BatchNormalization"), ("", "Mul"), ("", "Add")} <= operators(proto)
        assert {"c.weight", "d.weight"} <= kernels
    else:
        convolutions = [node for node in proto.graph.node if node.op_type == "Conv"]
        assert len(convolutions) == 4 or ("", "BatchNormalization") in operators(proto)


def test_fusion_deployed_folds_batch_norm(tmp_path: Path) -> None:
    proto = optimized(tmp_path, Numerics(fusion="deployed"))
    assert ("", "BatchNormalization") not in operators(proto)
    assert ("", "Mul") not in operators(proto)


def test_layouts(tmp_path: Path) -> None:
    blocked = ("com.microsoft.nchwc", "Conv")
    assert blocked not in operators(optimized(tmp_path, Numerics(layout="plain")))
    if blocked not in operators(optimized(tmp_path, Numerics(layout="blocked"))):
        pytest.skip("this processor has no NCHWc kernels")


def test_a_transposition_stays_in_its_place_where_nodes_run_apart(tmp_path: Path) -> None:
    """Moved behind the mean, it would make the mean add in another order than with a flip node between the two."""
    proto = build(
        """net (float[N, 2, 5] x) => (float[N, 2] y) {
            a = MatMul (x, "a.weight")
            t = Transpose <perm = [0, 2, 1]> (a)
            y = ReduceMean <keepdims = 0> (t, axes)
        }""",
        a__weight=normal(5, 5),
        axes=np.array([1]),
    )

    def in_order(apart: bool) -> list[str]:
        file = str(tmp_path / "optimized.onnx")
        open_session(from_proto(proto), Numerics(apart=apart), "y", file)
        return [node.op_type for node in onnx.load(file).graph.node]

    assert in_order(True) == ["MatMul", "Transpose", "ReduceMean"]
    assert in_order(False) == ["MatMul", "ReduceMean"]


@pytest.mark.parametrize("count", [1, 4, 5, 8, 11])
def test_scores_do_not_depend_on_what_else_is_in_the_batch(count: int) -> None:
    session = open_session(from_proto(cnn()), Numerics(batch_size=4), "scores")
    inputs = normal(11, 1, 6, 6)
    assert np.array_equal(session.run(inputs[:count]), session.run(inputs)[:count])


def test_scores_are_numpys() -> None:
    weight, inputs = normal(3, 5), normal(7, 3, seed=1)
    proto = build("net (float[N, 3] x) => (float[N, 5] y) { y = MatMul (x, W) }", W=weight)
    scores = open_session(from_proto(proto), Numerics(batch_size=2), "y").run(inputs)
    np.testing.assert_allclose(scores, inputs @ weight, rtol=1e-5)


def test_integer_outputs_keep_their_values() -> None:
    proto = build("net (float[N, 2] x) => (int32[N, 2] y) { y = Cast <to = 6> (x) }")
    inputs = np.array([[2**24, 5]], np.float32)
    scores = open_session(from_proto(proto), Numerics(batch_size=2), "y").run(inputs)
    assert (scores.dtype.name, scores.tolist()) == ("float64", [[2**24, 5]])


def test_half_precision_scores_are_widened() -> None:
    proto = build("net (float16[N, 3] x) => (float16[N, 3] y) { y = Identity (x) }")
    inputs = normal(3, 3, dtype=np.float16)
    scores = open_session(from_proto(proto), Numerics(batch_size=2), "y").run(inputs)
    assert scores.dtype == np.float32
    assert np.array_equal(scores, inputs.astype(np.float32))


def test_external_data_is_found_when_the_rewritten_model_is_in_memory(tmp_path: Path) -> None:
    proto = build("net (float[N, 3] x) => (float[N, 3] y) { y = MatMul (x, W) }", W=np.eye(3, dtype=np.float32))
    onnx.save_model(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    model = Model(onnx.load(tmp_path / "m.onnx", load_external_data=False), "m", tmp_path, "")
    inputs = normal(2, 3)
    assert np.array_equal(open_session(model, Numerics(batch_size=2), "y").run(inputs), inputs)


def test_a_model_the_runtime_does_not_take() -> None:
    proto = build("net (float[N, 3] x) => (float[N, 3] y) { y = com.microsoft.NoSuchOperator (x) }")
    with pytest.raises(ModelError, match=r"ONNX Runtime does not take the model: .*NoSuchOperator"):
        open_session(from_proto(proto), Numerics(), "y")


def test_an_output_without_a_row_per_input() -> None:
    proto = build("net (float[N, 3] x) => (float[A, B] y) { y = Transpose <perm = [1, 0]> (x) }")
    with pytest.raises(
        ModelError, match=r"output y: expected one row per input for a batch of 2, found shape \(3, 2\)"
    ):
        open_session(from_proto(proto), Numerics(batch_size=2), "y").run(normal(4, 3))


def test_a_provider_that_did_not_load_is_said() -> None:
    assert choose_provider("cpu") == "cpu"
    if choose_provider("auto") == "cuda":
        pytest.skip("a GPU answers here")
    with pytest.raises(ModelError, match="`provider` cuda: ONNX Runtime could not load CUDAExecutionProvider"):
        choose_provider("cuda")


def test_both_runtime_packages_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    assert runtime_conflict() is None
    monkeypatch.setattr(session_module, "_version", lambda package: "1.31.1")
    assert "both onnxruntime and onnxruntime-gpu are installed" in (runtime_conflict() or "")


def test_golden_run() -> None:
    session = open_session(from_proto(cnn()), Numerics(batch_size=4), "scores")
    inputs = normal(9, 1, 6, 6)
    whole = golden_run(from_proto(cnn()), session, [inputs], classes=True)
    parts = golden_run(from_proto(cnn()), session, [inputs[:4], inputs[4:]], classes=True)
    assert whole.shape == (9, 4)
    assert score_fingerprint(whole) == score_fingerprint(parts)
    assert score_fingerprint(whole) != score_fingerprint(whole + np.float32(1e-6))


def test_golden_scores_that_are_nan_name_the_inputs() -> None:
    inputs = normal(40, 1, 6, 6)
    inputs[[7, 33]] = np.nan
    session = open_session(from_proto(cnn()), Numerics(batch_size=4), "scores")
    with pytest.raises(DataError, match=r"gives NaN for 2 of 40 inputs \(first: 7, 33\)"):
        golden_run(from_proto(cnn()), session, [inputs], classes=True)


def test_an_output_of_another_rank_is_no_score() -> None:
    """The model does not declare its output's shape, so only the golden run can tell."""
    proto = build("net (float[N, 3, 2, 2] x) => (float y) { y = Relu (x) }")
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    model = from_proto(proto)
    session = open_session(model, Numerics(batch_size=2), "y")
    with pytest.raises(ModelError, match=r"expected \(batch, classes\) for a batch of 2, found shape \(2, 3, 2, 2\)"):
        golden_run(model, session, [normal(2, 3, 2, 2)], classes=True)
    assert golden_run(model, session, [normal(2, 3, 2, 2)], classes=False).shape == (2, 12)


def test_a_golden_output_without_a_range_is_refused() -> None:
    model = from_proto(build("net (float[N, 2] x) => (float[N, 2] y) { y = Log (x) }"))
    session = open_session(model, Numerics(batch_size=2), "y")
    inputs = np.array([[1, 2], [0, 1]], np.float32)
    with pytest.raises(DataError, match=r"gives NaN or Inf for 1 of 2 inputs \(first: 1\)"):
        golden_run(model, session, [inputs], classes=False)
    assert np.isinf(golden_run(model, session, [inputs], classes=True)).any()


def test_a_model_with_one_score_is_no_classifier() -> None:
    model = from_proto(build("net (float[N, 3] x) => (float[N, C] y) { y = MatMul (x, W) }", W=normal(3, 1)))
    session = open_session(model, Numerics(batch_size=2), "y")
    with pytest.raises(ModelError, match="output y has 1 value per input"):
        golden_run(model, session, [normal(2, 3)], classes=True)
    assert golden_run(model, session, [normal(2, 3)], classes=False).shape == (2, 1)
