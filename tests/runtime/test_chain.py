"""The chain gives the whole model's values, and what is not exact is not in it."""

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bitswap_onnx.graph.model import from_proto
from bitswap_onnx.runtime import chain
from bitswap_onnx.runtime.chain import Chain
from bitswap_onnx.runtime.chain_plan import decode_plan, encode_plan
from bitswap_onnx.runtime.lanes import flat
from bitswap_onnx.runtime.session import Numerics, open_session
from bitswap_onnx.runtime.submodel import open_part
from tests.builders import build
from tests.networks import MODELS, WITH_SEQUENCES, dags
from tests.runtime.chains import COUNT, chain_of
from tests.runtime.engines import NUMERICS, PLAIN

pytestmark = pytest.mark.usefixtures("divided")


def scores_of(made: Chain, x: NDArray[Any]) -> NDArray[Any]:
    (source,) = made.slicer.inputs
    size = made.numerics.batch_size
    batches = [made.run_through(0, made.count, {source: x[i : i + size]}) for i in range(0, len(x), size)]
    return np.concatenate([flat(batch[made.slicer.output]) for batch in batches])


@pytest.mark.parametrize("numerics", NUMERICS, ids=lambda n: f"{n.fusion}-{n.layout}")
@pytest.mark.parametrize("name", WITH_SEQUENCES)
def test_the_chain_keeps_the_scores(name: str, numerics: Numerics) -> None:
    made, x, scores = chain_of(WITH_SEQUENCES[name], numerics)
    assert (made.count > 2) == (name != "half")  # the CPU rounds half precision between nodes, as a cut would not
    assert np.array_equal(scores_of(made, x), scores)
    assert np.array_equal(scores_of(made, x[::-1]), scores[::-1])


@pytest.mark.slow
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(dags(), st.sampled_from(NUMERICS))
def test_chains_of_random_networks(proto: onnx.ModelProto, numerics: Numerics) -> None:
    made, x, scores = chain_of(proto, numerics)
    order = np.random.default_rng(0).integers(COUNT, size=COUNT)
    assert made.count == 1 or np.array_equal(scores_of(made, x[order]), scores[order])


def test_values_at_borders_are_those_of_the_whole_model() -> None:
    proto = MODELS["residual"]
    made, x, _ = chain_of(proto)
    whole = onnx.ModelProto()
    whole.CopyFrom(proto)
    names = sorted({name for border in made.borders[1:-1] for name in border})
    whole.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in names)
    (source,) = made.slicer.inputs
    values = {source: x[:4]}
    for number in range(made.count - 1):
        values = made.run(number, values)
        for name, array in values.items():
            assert np.array_equal(array, open_session(from_proto(whole), PLAIN, name).run(x[:4]).reshape(array.shape))


def test_a_border_behind_which_nothing_is_exact_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its two stages become one."""
    right, asked = chain._is_exact, chain_of(MODELS["cnn"])[0]
    lost = asked.borders[2]
    monkeypatch.setattr(chain, "_is_exact", lambda trial, *others: trial.borders[0] != lost and right(trial, *others))
    made, x, scores = chain_of(MODELS["cnn"])
    assert made.borders == tuple(border for border in asked.borders if border != lost)
    assert np.array_equal(scores_of(made, x), scores)


def test_where_nothing_is_exact_the_model_is_one_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "_is_exact", lambda *arguments: False)
    made, x, scores = chain_of(MODELS["cnn"])
    assert made.count == 1
    assert np.array_equal(scores_of(made, x), scores)


def test_a_plan_makes_the_same_chain() -> None:
    made = chain_of(MODELS["residual"], replace(PLAIN, layout="blocked"))[0]
    plan = decode_plan(encode_plan(made.plan))
    assert plan == made.plan
    assert decode_plan(encode_plan(None)) is None


@pytest.mark.parametrize(("memory", "direct"), [(0, set[int]()), (1 << 30, {0, 2})])
def test_where_many_batches_pass_one_sub_model_takes_them(
    memory: int, direct: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "_PASSES", 3)
    made, x, scores = chain_of(MODELS["residual"])
    made.direct_memory = memory
    (source,) = made.slicer.inputs
    later = made.run_through(0, 2, {source: x[:4]})
    for _ in range(4):
        assert np.array_equal(flat(made.run_through(0, made.count, {source: x[:4]})[made.slicer.output]), scores[:4])
        assert np.array_equal(flat(made.run_through(2, made.count, later)[made.slicer.output]), scores[:4])
    assert set(made._direct) == direct


def test_a_sub_model_that_rounds_otherwise_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "_PASSES", 1)
    monkeypatch.setattr(chain, "same_numbers", lambda *arrays: False)
    made, x, _ = chain_of(MODELS["cnn"])
    made.direct_memory = 1 << 30
    scores_of(made, x)
    assert not made._direct


@pytest.mark.parametrize("operator", ["Div", "Mul"])
def test_images_that_enter_in_blocked_layout_keep_the_sign_of_zero_where_it_matters(operator: str) -> None:
    """1 / -0 is -Inf. (A product of the same numbers may lose the sign.)"""
    body = f"""net (float[N, 16, 4, 4] x) => (float[N, 16, 4, 4] y) {{
        a = {operator} (one, x)
        y = Conv <kernel_shape = [1, 1], group = 16> (a, "c.weight")
    }}"""
    model = from_proto(build(body, one=np.ones(1, np.float32), c__weight=np.ones((16, 1, 1, 1), np.float32)))
    x = np.full((4, 16, 4, 4), -0.0, np.float32)
    numerics = Numerics(batch_size=4, layout="blocked")
    (plain,), (blocked,) = (open_part(model, numerics, blocked).run({"x": x}) for blocked in (False, True))
    np.testing.assert_array_equal(plain, blocked)
