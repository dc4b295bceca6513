"""Borders between stages: everything behind one depends on nothing before it."""

from collections.abc import Callable

import onnx
import pytest
from hypothesis import HealthCheck, given, settings

from bitswap_onnx.graph import stages
from bitswap_onnx.graph.model import from_proto
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.graph.stages import Border, divide
from tests.builders import build, cnn, normal
from tests.networks import MODELS, dags


def slicer_of(proto: onnx.ModelProto) -> Slicer:
    shape = tuple(dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim[1:])
    return Slicer(from_proto(proto), proto.graph.output[0].name, 4, shape)


def always(border: Border) -> bool:
    return True


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Borders cost nothing, so there are as many as there can be."""
    monkeypatch.setattr(stages, "_PER_RUN", 0)
    monkeypatch.setattr(stages, "_PER_BYTE", 0)


def assert_separates(slicer: Slicer, border: Border) -> None:
    """Without the border's values, the scores cannot be computed from any input of the model."""
    behind = slicer.between(border, (slicer.output,))
    read = {name for node in behind for name in slicer.reads[node]}
    assert not (read & set(slicer.inputs)) - set(border)
    assert all(slicer.has_rows(name) for name in border)


def test_a_small_model_is_one_stage() -> None:
    slicer = slicer_of(cnn())
    assert divide(slicer, always) == [("x",), ("scores",)]


@pytest.mark.usefixtures("free")
@pytest.mark.parametrize("name", MODELS)
def test_borders_separate(name: str) -> None:
    slicer = slicer_of(MODELS[name])
    first, *inner, last = divide(slicer, always)
    assert (first, last) == (tuple(slicer.inputs), (slicer.output,))
    assert inner
    assert len({first, *inner, last}) == len(inner) + 2
    for border in inner:
        assert_separates(slicer, border)


@pytest.mark.usefixtures("free")
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(dags())
def test_borders_of_random_networks_separate(proto: onnx.ModelProto) -> None:
    slicer = slicer_of(proto)
    for border in divide(slicer, always)[1:-1]:
        assert_separates(slicer, border)


@pytest.mark.usefixtures("free")
def test_a_skip_crosses_the_border() -> None:
    assert ("c", "d") in divide(slicer_of(MODELS["residual"]), always)


@pytest.mark.usefixtures("free")
@pytest.mark.parametrize("allowed", [lambda border: len(border) == 1, lambda border: False])
def test_refused_borders_are_left_out(allowed: Callable[[Border], bool]) -> None:
    slicer = slicer_of(MODELS["residual"])
    inner = divide(slicer, allowed)[1:-1]
    assert all(map(allowed, inner))
    assert bool(inner) == allowed(("a",))


@pytest.mark.usefixtures("free")
def test_a_shape_that_is_computed_again_brings_its_source_along() -> None:
    """A value that a later node needs the shape of crosses each border before that node."""
    proto = build(
        """net (float[N, 4, 2] x) => (float[N, 8] y) {
            a = Relu (x)
            b = Flatten (a)
            c = MatMul (b, "w.weight")
            s = Shape (a)
            d = Reshape (c, s)
            e = Neg (d)
            y = Flatten (e)
        }""",
        **{"w.weight": normal(8, 8)},
    )
    slicer = slicer_of(proto)
    borders = divide(slicer, always)
    assert ("a", "c") in borders
    for border in borders[1:-1]:
        assert_separates(slicer, border)
