"""Random networks and faults: the engines' score bits are those of plain sessions."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmarks.fuzz.__main__ import in_memory
from tests.benchmarks.fuzz.outcome import Outcome
from tests.benchmarks.fuzz.report import summary
from tests.benchmarks.fuzz.run import Options, check_network

pytestmark = pytest.mark.slow

SEED, NETWORKS, INJECTIONS = 2, 56, 40

OPERATORS = {
    *("Conv", "ConvTranspose", "BatchNormalization", "LayerNormalization", "InstanceNormalization", "Gemm", "MatMul"),
    *(
        "Relu",
        "LeakyRelu",
        "Elu",
        "Selu",
        "Celu",
        "Sigmoid",
        "Tanh",
        "HardSigmoid",
        "HardSwish",
        "Softplus",
        "Softsign",
    ),
    *("Mish", "Gelu", "Erf", "Clip", "PRelu", "ThresholdedRelu", "Sin", "Cos", "Log", "Exp", "Softmax", "If"),
    *("Add", "Mul", "Sub", "Concat", "Split", "Reshape", "Transpose", "Flatten", "ReduceMean"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "DynamicQuantizeLinear"),
}
LANES = {f"weights: {lane}" for lane in ("packed", "stages", "whole")} | {"neurons: neuron", "mixed: stages"}
FAULTS = {f"{site}{kind}" for site in ("", "neuron ") for kind in ("flip", "stuck_at_0", "stuck_at_1", "mask", "set")}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    """All networks, checked."""
    total, options = Outcome(), Options(SEED, INJECTIONS)
    folder = tmp_path_factory.mktemp("fuzz")
    for number in range(NETWORKS):
        total.add(check_network(number, options, Path(in_memory() or folder, f"{folder.name}-{number}")))
    yield total
    print(summary(total, 0))


def names(outcome: Outcome, topic: str) -> set[str]:
    return {name for kind, name in outcome.met if kind == topic}


def test_every_score_has_the_bits_of_a_plain_session(outcome: Outcome) -> None:
    first = {(finding.number, finding.kind): finding for finding in reversed(outcome.findings)}
    assert not first, "\n".join(map(str, first.values()))


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        ("operator", OPERATORS),
        ("lane", LANES),
        ("fault", FAULTS),
        ("layout", {"plain", "blocked"}),
        ("fusion", {"framework", "deployed"}),
        ("dtype", {"float32", "float16"}),
        ("batch size", {"1", "7", "32"}),
        ("mixing", {"True", "False"}),
        ("opset", {"17", "18", "19", "20"}),
    ],
)
def test_the_run_meets(outcome: Outcome, topic: str, expected: set[str]) -> None:
    assert names(outcome, topic) >= expected


def test_most_networks_run(outcome: Outcome) -> None:
    assert outcome.met["network", "run"] >= 0.9 * NETWORKS
    assert outcome.met["compared", "inferences"] > 10_000
