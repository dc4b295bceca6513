"""Weight norm and spectral norm of PyTorch, in both styles: what is stored and multiplied is a weight, buffers are not."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from bitswap_onnx.converters.torch_to_onnx import export_torch
from bitswap_onnx.graph.model import load_model
from bitswap_onnx.graph.targets import find_targets


class _Normed(nn.Module):
    """Two convolutions under a weight norm, a Linear under a spectral norm; ``new``: as parametrizations."""

    def __init__(self, new: bool) -> None:
        super().__init__()
        by_weight = parametrizations.weight_norm if new else weight_norm
        by_spectrum = parametrizations.spectral_norm if new else spectral_norm
        self.conv = by_weight(nn.Conv1d(2, 6, 3, padding=1))
        self.up = by_weight(nn.ConvTranspose1d(6, 4, 4, 2, 1))
        self.fc = by_spectrum(nn.Linear(4 * 16, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        up = self.up(torch.relu(self.conv(x)))
        scores: torch.Tensor = self.fc(torch.relu(up).flatten(1))
        return scores


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:The tensor attributes:UserWarning")
@pytest.mark.parametrize("new", [True, False], ids=["parametrizations", "hooks"])
def test_what_is_multiplied_is_a_weight(new: bool, tmp_path: Path) -> None:
    torch.manual_seed(2)
    module = _Normed(new).eval()
    export_torch(module, (2, 8), tmp_path / "m.onnx")
    targets = find_targets(load_model(tmp_path / "m.onnx"))
    elements = dict.fromkeys(("weight", "bias", "parameter"), 0)
    for target in targets:
        elements[target.role] += target.elements
    assert elements["weight"] == (6 * 2 * 3 + 6) + (6 * 4 * 4 + 6) + 64 * 5  # two directions with lengths, a matrix
    assert elements["bias"] == 6 + 4 + 5
    vectors = {target.shape for target in targets if target.role == "parameter"}
    assert vectors == {(5,), (64,)}
