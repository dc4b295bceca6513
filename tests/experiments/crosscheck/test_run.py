"""Cross-checks: hand-made agreements, and a small PyTorch network against ONNX Runtime with faults of every kind."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from bitswap_onnx.cli.main import main
from bitswap_onnx.converters.native import torch_native
from bitswap_onnx.converters.torch_to_onnx import export_torch
from bitswap_onnx.errors import ControlFailedError, FaultListError
from bitswap_onnx.experiments.crosscheck.agreement import Agreement, measure_agreement
from bitswap_onnx.experiments.crosscheck.run import Verdict, crosscheck
from bitswap_onnx.faults.fault import Fault, Injection, Kind
from bitswap_onnx.faults.fault_list import write_fault_list
from tests.builders import normal

NAN, INF = np.nan, np.inf


def scores(*rows: list[float]) -> NDArray[np.float32]:
    return np.array(rows, np.float32)


CLEAN = scores([1.0, 2.0], [3.0, 1.0])
NATIVE_CLEAN = scores([1.0, 2.0], [3.0, 1.001])  # a clean difference of 0.001


@pytest.mark.parametrize(
    ("ours", "theirs", "differing", "near_ties", "nonfinite", "nonfinite_differing"),
    [
        (CLEAN, CLEAN, 0, 0, 0, 0),
        (CLEAN, scores([2.0, 1.0], [3.0, 1.0]), 1, 0, 0, 0),
        (scores([1.0, 1.001], [3.0, 1.0]), scores([1.001, 1.0], [3.0, 1.0]), 1, 1, 0, 0),
        (scores([1.0, 1.01], [3.0, 1.0]), scores([1.01, 1.0], [3.0, 1.0]), 1, 0, 0, 0),
        (scores([1e6, 1.001e6], [3.0, 1.0]), scores([1.001e6, 1e6], [3.0, 1.0]), 1, 0, 0, 0),
        (
            scores([1e6, 1.0002e6], [3.0, 1.0]),
            scores([1.0002e6, 1e6], [3.0, 1.0]),
            1,
            1,
            0,
            0,
        ),  # scaled with the scores
        (scores([NAN, 2.0], [3.0, 1.0]), scores([1.0, 2.0], [3.0, 1.0]), 0, 0, 1, 1),
        (scores([INF, 2.0], [3.0, 1.0]), scores([INF, 2.0], [NAN, NAN]), 0, 0, 2, 0),
    ],
)
def test_agreement(
    ours: NDArray[np.float32],
    theirs: NDArray[np.float32],
    differing: int,
    near_ties: int,
    nonfinite: int,
    nonfinite_differing: int,
) -> None:
    found = measure_agreement("i", (CLEAN, ours), (NATIVE_CLEAN, theirs))
    assert (found.differing, found.near_ties) == (differing, near_ties)
    assert (found.nonfinite, found.nonfinite_differing) == (nonfinite, nonfinite_differing)


def test_differences_and_counts() -> None:
    found = measure_agreement(
        "i", (CLEAN, scores([1.0, 2.0], [3.0, 1.5])), (NATIVE_CLEAN, scores([1.0, 2.25], [NAN, 1.0]))
    )
    assert found.difference == 0.25
    assert found.relative == 0.125
    assert (found.runtime["masked"], found.native["masked"]) == (1, 0)
    assert (found.runtime["non_critical"], found.native["non_critical"]) == (1, 2)


def verdict(differing: int, near_ties: int, nonfinite_differing: int) -> Verdict:
    clean = measure_agreement("clean", (CLEAN, CLEAN), (CLEAN, CLEAN))
    row = Agreement("i", 100, 0.0, 0.0, differing, near_ties, 50, nonfinite_differing, {}, {})
    return Verdict("torch", clean, (row,), 0.01, has_max_pool=True)


def test_verdicts() -> None:
    verdict(3, 3, 1).check()
    with pytest.raises(ControlFailedError, match="2 predictions of ONNX Runtime and torch differ with finite scores"):
        verdict(3, 1, 0).check()
    with pytest.raises(ControlFailedError, match=r"2.00% of the faulty inferences .* `max_nonfinite` 1.00% \(MaxPool"):
        verdict(0, 0, 2).check()


class Net(nn.Sequential):
    def __init__(self) -> None:
        torch.manual_seed(1)
        super().__init__(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24, 5)
        )


FAULTS = [
    *(Injection(f"conv{bit}", (Fault("0", (bit % 6, 0, 1, bit % 3), bit),)) for bit in range(32)),
    Injection("bias", (Fault("5", (2,), 30, parameter="bias"),)),
    Injection("variance", (Fault("1", (3,), 31, parameter="bn_var"),)),
    Injection("mean", (Fault("1", (3,), None, Kind.SET, "7.5", "bn_mean"),)),
    Injection("several", (Fault("0", (0, 0, 0, 0), 29), Fault("0", (0, 0, 0, 0), 3), Fault("5", (1, 1), 28))),
    Injection("stuck", (Fault("5", (4, 20), 30, Kind.STUCK_AT_1),)),
]


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    export_torch(Net().eval(), (1, 6, 6), tmp_path / "net.onnx")
    np.savez(tmp_path / "net.npz", x=normal(40, 1, 6, 6))
    write_fault_list(tmp_path / "faults.csv", FAULTS)
    return tmp_path


def test_pytorch_agrees_and_keeps_its_weights(exported: Path) -> None:
    network = Net().eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    (found,) = crosscheck(
        exported / "net.onnx",
        exported / "faults.csv",
        natives=[lambda model: torch_native(network)],
        run=exported / "run",
        max_nonfinite=0.05,
        workers=1,
    )
    found.check()
    assert [agreement.id for agreement in found.injections] == [injection.id for injection in FAULTS]
    assert found.clean.difference < 1e-5
    assert found.unexplained == 0
    for agreement in found.injections:
        if not agreement.nonfinite:
            assert agreement.runtime["critical"] == agreement.native["critical"], agreement.id
    assert sum(agreement.native["critical"] or 0 for agreement in found.injections) > 0
    assert sum(agreement.nonfinite for agreement in found.injections) > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_other_weights_are_refused(exported: Path) -> None:
    other = Net().eval()
    with torch.no_grad():
        other.get_parameter("0.weight").mul_(2)
    with pytest.raises(FaultListError, match=r"0.weight: the native model has other weights"):
        crosscheck(
            exported / "net.onnx",
            exported / "faults.csv",
            natives=[lambda model: torch_native(other)],
            run=exported / "run",
        )


def test_a_network_that_computes_something_else_fails(exported: Path) -> None:
    other = Net().eval()
    other[2] = nn.Identity()
    (found,) = crosscheck(
        exported / "net.onnx",
        exported / "faults.csv",
        natives=[lambda model: torch_native(other)],
        run=exported / "run",
        injections=3,
        workers=1,
    )
    assert len(found.injections) == 3
    with pytest.raises(ControlFailedError, match="the file is not the native model"):
        found.check()


NETWORK = """
import torch
from torch import nn

def build():
    torch.manual_seed(1)
    layers = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24, 5)
    return nn.Sequential(*layers)
"""


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["bitswap-onnx", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_command(exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(exported)
    monkeypatch.setenv("COLUMNS", "160")
    Path("net.py").write_text(NETWORK)
    arguments = ("crosscheck", "net.onnx", "faults.csv", "--workers", 1, "--injections", 5)
    assert call(monkeypatch, *arguments, "--native", "torch:net.py:build") == 0
    printed = capsys.readouterr().out
    assert "torch: 200 faulty inferences" in printed
    assert "; clean scores differ by at most " in printed
    assert "different predictions: 0 without explanation" in printed
    assert "score difference: the largest, as a part of an input's largest score" in printed
    assert call(monkeypatch, *arguments, "--native", "jax:net") == 1
    assert "--native jax:net: expected torch:MODULE:CALLABLE" in capsys.readouterr().err
