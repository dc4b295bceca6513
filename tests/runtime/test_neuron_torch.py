"""Neuron faults against forward hooks in PyTorch that flip the same elements of the same layers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.converters.torch_to_onnx import export_torch
from bitswap_onnx.faults.fault import Fault, Injection, Site
from tests.benchmarks.neuron_torch import compare, flipped, hooked_sites, native_scores, run_engine
from tests.benchmarks.subjects import draw_neurons
from tests.builders import normal

INPUTS = 10


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(),
        nn.Conv2d(4, 6, 3, stride=2),
        nn.Identity(),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(54, 8),
        nn.Tanh(),
        nn.Linear(8, 5),
    ).eval()


def test_flipping_in_torch_is_flipping() -> None:
    tensor = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert flipped(tensor, Fault("l", (1,), 31)).tolist() == [[1.0, -2.0], [3.0, -4.0]]


@pytest.mark.parametrize("engine", ["incremental", "reference"])
def test_predictions_of_hooks_and_of_a_campaign(engine: str, tmp_path: Path) -> None:
    model = network()
    export_torch(model, (2, 8, 8), tmp_path / "m.onnx")
    x = normal(INPUTS, 2, 8, 8, seed=3)
    np.savez(tmp_path / "m.npz", x=x)
    settings = Settings(batch_size=4, layout="plain")
    sites = hooked_sites(prepare(tmp_path / "m.onnx", settings), model)
    assert {(site.layer, site.site) for site in sites if site.role == "vanished"} >= {
        ("3", Site.OUTPUT),
        ("5", Site.INPUT),
    }
    assert {site.layer for site in sites if site.role == "kernel"} == {"0", "4", "8", "10"}
    injections = draw_neurons(sites, 60, INPUTS)
    ours = run_engine(tmp_path / "m.onnx", injections, settings, tmp_path / "run", engine)
    compared, different = compare(model, injections, x, ours)
    assert compared == 50 + 10 * INPUTS
    assert not different
    for injection in injections:
        expected = native_scores(model, injection, x)
        finite = np.isfinite(expected) & (np.abs(expected) < 1e6)
        assert np.allclose(ours[injection.id][finite], expected[finite], rtol=1e-3, atol=1e-4), injection


def test_what_a_layer_takes_in_is_its_own(tmp_path: Path) -> None:
    """A value that two modules read: the hook before one of them leaves the other alone, and so does the site."""

    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(6, 4), nn.Linear(6, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            shared = torch.relu(x)
            return torch.as_tensor(self.left(shared) - self.right(shared))

    torch.manual_seed(1)
    fork = Fork().eval()
    export_torch(fork, (6,), tmp_path / "m.onnx")
    x = np.abs(normal(INPUTS, 6, seed=4))
    np.savez(tmp_path / "m.npz", x=x)
    injections = [
        Injection(f"{layer}{which}", (Fault(layer, (2,), 30, site=Site.INPUT, input=which),))
        for layer in ("left", "right")
        for which in (3, None)
    ]
    settings = Settings(batch_size=4, layout="plain")
    ours = run_engine(tmp_path / "m.onnx", injections, settings, tmp_path / "run", "incremental")
    compared, different = compare(fork, injections, x, ours)
    assert (compared, different) == (2 * (1 + INPUTS), [])
    for injection in injections:
        assert np.allclose(ours[injection.id], native_scores(fork, injection, x), rtol=1e-5, equal_nan=True)


@pytest.mark.parametrize("layer", ["shortcut", "drop"])
def test_a_module_that_vanished_beside_another_reader(layer: str, tmp_path: Path) -> None:
    """An Identity shortcut stands for what it passes on, which all that read it see: as a fault in the module before it."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.lin = nn.Linear(6, 6), nn.Linear(6, 4)
            self.act, self.shortcut, self.drop = nn.ReLU(), nn.Identity(), nn.Dropout()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.act(self.first(x))
            return torch.as_tensor(self.lin(self.drop(x)) + self.shortcut(x)[:, :4])

    torch.manual_seed(0)
    block = Block().eval()
    export_torch(block, (6,), tmp_path / "m.onnx")
    x = np.abs(normal(INPUTS, 6, seed=4))
    np.savez(tmp_path / "m.npz", x=x)
    injection = Injection("i", (Fault(layer, (2,), 28, site=Site.OUTPUT),))
    settings = Settings(batch_size=4, layout="plain")
    ours = run_engine(tmp_path / "m.onnx", [injection], settings, tmp_path / "run", "reference")
    before = Injection("i", (Fault("act", (2,), 28, site=Site.OUTPUT),))
    assert np.allclose(ours["i"], native_scores(block, before, x), rtol=1e-3, atol=1e-4)
