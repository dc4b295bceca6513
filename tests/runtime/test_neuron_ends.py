"""Sites that the scores do not depend on: they change nothing, and are in no other site's way."""

import onnx
import pytest

from bitswap_onnx.graph.edits import InjectionEdits, NeuronEdit
from tests.builders import build, normal
from tests.runtime.engines import all_scores
from tests.runtime.neuron_engines import Path, bits_of, engines, injections

TWO_ENDS = """net (float[N, 6] x) => (float[N, 3] y, float[N, 4] aux) {
    a = MatMul (x, "a.weight")
    aux = MatMul (a, "aux.weight")
    y = MatMul (a, "fc.weight")
}"""


def two_ends() -> onnx.ModelProto:
    return build(TWO_ENDS, a__weight=normal(6, 6), aux__weight=normal(6, 4, seed=3), fc__weight=normal(6, 3, seed=2))


@pytest.mark.parametrize("path", [("@output:aux",), ("@input:aux",), ("@output:a", "@output:aux")])
def test_sites_that_do_not_reach_the_scores(path: Path) -> None:
    reference, engine = engines(two_ends(), paths={path: 100})
    edits = [InjectionEdits(neurons={key: [NeuronEdit(1, 2, 0xFFFFFFFF, 1 << 30)] for key in path})]
    found, expected = (all_scores(way, path, edits) for way in (engine, reference))
    assert bits_of(found) == bits_of(expected)


@pytest.mark.parametrize("path", [("@input:aux", "@output:a"), ("@input:aux", "fc.weight"), ("@input:aux", "@input:y")])
def test_a_dead_site_before_a_node_beside_a_live_one(path: Path) -> None:
    reference, engine = engines(two_ends(), paths={path: 100})
    edits = injections(reference, path)
    found, expected = (all_scores(way, path, edits) for way in (engine, reference))
    assert bits_of(found) == bits_of(expected)
