"""Where two runtimes diverge: small networks in which only a fused operator gives NaN or overflows."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.cli.crosscheck import _print
from bitswap_onnx.converters.native import torch_native
from bitswap_onnx.converters.torch_to_onnx import export_torch
from bitswap_onnx.experiments.crosscheck.agreement import measure_agreement
from bitswap_onnx.experiments.crosscheck.divergence import Divergence, differing_elements, find_divergence
from bitswap_onnx.experiments.crosscheck.run import Verdict, crosscheck
from bitswap_onnx.faults.fault import Fault, Injection, Kind
from bitswap_onnx.faults.fault_list import write_fault_list
from bitswap_onnx.graph.resolve import resolve
from tests.builders import normal

NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([1.0, NAN, INF, -INF], [1.0, NAN, INF, -INF], [0, 0, 0, 0]),
        ([NAN, INF, 1.0, NAN, 3e38], [INF, -INF, INF, 0.0, 3e38], [1, 1, 1, 1, 0]),
        ([100.0, 0.0], [100.05, 0.05], [0, 0]),  # within 1e-3 of the largest
        ([100.0, 0.0], [100.0, 0.2], [0, 1]),
        ([0.0, 0.0], [0.0, -0.0], [0, 0]),
        ([3e38, NAN], [-3e38, NAN], [1, 0]),
    ],
)
def test_differing(ours: list[float], theirs: list[float], expected: list[int]) -> None:
    assert differing_elements(np.array(ours, np.float32), np.array(theirs, np.float32)).tolist() == list(
        map(bool, expected)
    )


class OwnNorm(nn.Module):
    """A layer normalisation written as single operations, which ONNX Runtime fuses into one."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(size)), nn.Parameter(torch.linspace(-1, 1, size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5) * self.weight + self.bias


class Middle(nn.Module):
    """A linear layer, an addition outside any module, the operator under test, and a linear layer."""

    def __init__(self, middle: nn.Module | None) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)
        self.middle = middle
        with torch.no_grad():
            self.first.weight.fill_(0.5)
            self.first.bias.fill_(0.75)  # a flip of bit 30 makes it 2.55e38
            self.last.weight.copy_(torch.tensor([-1.0, -1.0, 1.0])[:, None].expand(3, 4))
            self.last.bias.copy_(torch.tensor([0.0, 0.0, 20.0]))  # class 2, unless NaN makes it class 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x) + 1.0
        x = nn.functional.layer_norm(x, (4,)) if self.middle is None else self.middle(x)
        scores: torch.Tensor = self.last(x)
        return scores


def biases(*indices: int, kind: Kind = Kind.FLIP, bit: int | None = 30, value: str | None = None) -> tuple[Fault, ...]:
    return tuple(Fault("first", (index,), bit, kind, value, "bias") for index in indices)


FAULTS = [
    Injection("mantissa", biases(0, bit=3)),
    Injection("one", biases(0)),
    Injection("all", biases(0, 1, 2, 3)),
    Injection("infinite", biases(0, kind=Kind.SET, bit=None, value="inf")),
]


def run(network: nn.Module, inputs: NDArray[np.float32], faults: list[Injection], folder: Path, *, layers: bool = True) -> Verdict:  # fmt: skip  # noqa: E501
    export_torch(network.eval(), inputs.shape[1:], folder / "net.onnx")
    np.savez(folder / "net.npz", x=inputs)
    write_fault_list(folder / "faults.csv", faults)
    native = torch_native(network) if layers else replace(torch_native(network), layers=None)
    (verdict,) = crosscheck(
        folder / "net.onnx",
        folder / "faults.csv",
        natives=[lambda model: native],
        run=folder / "run",
        workers=0,
        max_nonfinite=1.0,
    )
    assert {divergence.injection for divergence in verdict.divergences} == {row.id for row in verdict.injections if row.example is not None}  # fmt: skip  # noqa: E501
    assert verdict.injections[0].example is None  # the mantissa flip
    return verdict


def of(verdict: Verdict, injection: str) -> Divergence:
    """Return the divergence of an injection; on some processors only, PyTorch's kernels give NaN."""
    found = [divergence for divergence in verdict.divergences if divergence.injection == injection]
    return found[0] if found else pytest.skip("PyTorch and ONNX Runtime agree on this processor")


OWN_NORM = ("ReduceMean", "Sub", "Pow", "ReduceMean", "Add", "Sqrt", "Div", "Mul", "Add")


@pytest.mark.parametrize(
    ("middle", "injection", "operators", "first_value"),
    [
        # The variance overflows, so a finite distance from the mean is divided by Inf: 0.
        (nn.LayerNorm(4), "one", ("LayerNormalization",), 0.0),
        # Inf * (1 + erf(Inf)) / 2
        (nn.GELU(), "infinite", ("Gelu",), INF),
        # The sum overflows: Inf mean, -Inf / Inf is NaN as written. Fused, no distance is left but the bias, -1.
        (OwnNorm(4), "all", OWN_NORM, -1.0),
    ],
)
def test_the_operator_is_named(
    middle: nn.Module, injection: str, operators: tuple[str, ...], first_value: float, tmp_path: Path
) -> None:
    verdict = run(Middle(middle), normal(8, 4), FAULTS, tmp_path)
    found = of(verdict, injection)
    assert tuple(operator for operator, _ in found.nodes) == operators
    assert (found.layer, found.input) == ("middle", 0)
    sides = dict(found.sides)
    assert sides["ONNX Runtime"] == first_value
    assert np.isnan(sides["torch"])
    assert np.isnan(sides["ONNX reference"]) == (operators == OWN_NORM)
    assert found.note == ("ONNX Runtime computes them in one piece" if operators == OWN_NORM else "")
    assert " to ".join(dict.fromkeys((operators[0], operators[-1]))) in verdict.cause
    assert (
        f"(layer middle): ONNX Runtime {'Inf' if first_value == INF else f'{first_value:g}'}, torch NaN" in found.text
    )


def test_without_native_values_the_reference_stands_in(tmp_path: Path) -> None:
    found = of(run(Middle(OwnNorm(4)), normal(8, 4), FAULTS, tmp_path, layers=False), "all")
    assert tuple(operator for operator, _ in found.nodes) == OWN_NORM
    assert [name for name, _ in found.sides] == ["ONNX Runtime", "ONNX reference"]
    assert found.note == "torch shows no values of its layers; ONNX Runtime computes them in one piece"


def test_outside_of_modules_the_nodes_before_the_next_one_are_named(tmp_path: Path) -> None:
    found = of(run(Middle(None), normal(8, 4), FAULTS, tmp_path), "one")
    assert [operator for operator, _ in found.nodes] == ["Add", "LayerNormalization"]
    assert (found.layer, found.note) == ("", "before layer last")


def test_max_pool_drops_a_nan(tmp_path: Path) -> None:
    """The flip turns the weight 1 into Inf: NaN where the input is 0, else Inf. ONNX Runtime's pool sees the last column."""
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 3))
    with torch.no_grad():
        network.get_parameter("0.weight").fill_(1.0)
        network.get_parameter("4.weight").copy_(torch.tensor([-1.0, -1.0, 1.0])[:, None].expand(3, 4))
    inputs = np.abs(normal(4, 1, 4, 4)) + 1
    inputs[..., ::2] = 0
    faults = [Injection("mantissa", (Fault("0", (0, 0, 0, 0), 0),)), Injection("one", (Fault("0", (0, 0, 0, 0), 30),))]
    found = of(run(network, inputs, faults, tmp_path), "one")
    assert [operator for operator, _ in found.nodes] == ["MaxPool"]
    assert found.layer == "2"
    assert dict(found.sides)["ONNX Runtime"] == INF
    assert np.isnan(dict(found.sides)["torch"])


def test_what_the_input_alone_does_not_show(tmp_path: Path) -> None:
    network = Middle(nn.LayerNorm(4))
    export_torch(network.eval(), (4,), tmp_path / "net.onnx")
    setup = prepare(tmp_path / "net.onnx", Settings(data="synthetic:3"))
    (injection,) = resolve(setup.model, FAULTS[:1])
    scores = np.zeros(3, np.float32), np.ones(3, np.float32)
    found = find_divergence(setup, injection, torch_native(network), 2, scores)
    assert found == Divergence("mantissa", 2, note="not seen when this input runs alone")
    assert found.text == "injection mantissa, input 2: not seen when this input runs alone"


def test_keras_layers_are_compared_in_the_layout_of_the_file(tmp_path: Path) -> None:
    """TensorFlow and ONNX Runtime agree on the usual layers, so this network's activation turns huge values into 0."""
    keras = pytest.importorskip("keras", reason="needs the extra [keras]")
    from bitswap_onnx.converters.keras_to_onnx import export_keras
    from bitswap_onnx.converters.native import keras_native

    class Saturating(keras.layers.ReLU):  # type: ignore[misc, name-defined]
        def call(self, x: Any) -> Any:
            return keras.ops.where(x > 1e30, 0.0, super().call(x))

    def build(activation: type) -> Any:
        keras.utils.set_random_seed(1)
        layers = keras.layers
        front = layers.Conv2D(3, 3, name="conv"), activation(name="relu"), layers.Conv2D(2, 3, name="conv2")
        return keras.Sequential([keras.Input((8, 8, 1)), *front, layers.Flatten(), layers.Dense(3, name="dense")])

    network = build(Saturating)
    export_keras(build(keras.layers.ReLU), tmp_path / "net.onnx")
    setup = prepare(tmp_path / "net.onnx", Settings(data="synthetic:2"))
    fault = Fault("conv", (1,), None, Kind.SET, "inf", "bias")
    (injection,) = resolve(setup.model, [Injection("inf", (fault,))])
    native = keras_native(setup.model, network)
    inputs = setup.dataset.batch(0, 2)
    scores = np.full(3, NAN, np.float32), native.faulty(injection, inputs)[1]
    found = find_divergence(setup, injection, native, 1, scores)
    assert (found.layer, [operator for operator, _ in found.nodes]) == ("relu", ["Relu", "Transpose"])
    assert found.sides == (("ONNX Runtime", INF), ("keras", 0.0), ("ONNX reference", INF))


def test_the_report_has_a_line_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    clean = measure_agreement("clean", (np.eye(2), np.eye(2)), (np.eye(2), np.eye(2)))
    divergence = Divergence("7", 3, (("Softmax", "node[1]"),), "attention", (("ONNX Runtime", NAN), ("torch", 0.5)))
    verdict = Verdict("torch", clean, (replace(clean, id="7"),), 0.01, has_max_pool=True, divergences=(divergence,))
    _print([verdict])
    printed = " ".join(capsys.readouterr().out.split())
    line = "torch, injection 7, input 3: Softmax node[1] (layer attention): ONNX Runtime NaN, torch 0.5"
    assert line in printed
    assert "(the runs diverge at Softmax)" in printed
