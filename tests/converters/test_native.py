"""Native runs: one fault list, ONNX Runtime, PyTorch and Keras side by side."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bitswap_onnx.converters.native import keras_native, torch_native
from bitswap_onnx.converters.torch_to_onnx import export_torch
from bitswap_onnx.experiments.crosscheck.run import crosscheck
from bitswap_onnx.faults.fault import Fault, Injection
from bitswap_onnx.faults.fault_list import write_fault_list
from tests.builders import normal

pytest.importorskip("keras", reason="needs the extra [keras]")

FAULTS = [
    *(Injection(f"kernel{bit}", (Fault("0", (bit % 6, bit % 2, bit % 3, 1), bit),)) for bit in range(0, 32, 3)),
    Injection("bias", (Fault("5", (2,), 30, parameter="bias"),)),
    Injection("dense", (Fault("5", (2, 13), 29),)),
    Injection("variance", (Fault("1", (3,), 30, parameter="bn_var"),)),
    Injection("several", (Fault("0", (0, 0, 0, 0), 29), Fault("0", (0, 0, 0, 0), 3), Fault("5", (1, 1), 28))),
]


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(24, 5)
    ).eval()


def test_three_runtimes_agree_on_the_file_that_pytorch_made(tmp_path: Path) -> None:
    """Keras's variables are found by content: they have other names and another layout than the file."""
    from bitswap_onnx.converters.keras_setup import load_keras_file
    from bitswap_onnx.converters.onnx_to_keras import onnx_to_keras

    module = network()
    path = tmp_path / "net.onnx"
    export_torch(module, (2, 6, 6), path)
    onnx_to_keras(path, tmp_path / "net.keras")
    np.savez(tmp_path / "net.npz", x=normal(20, 2, 6, 6))
    write_fault_list(tmp_path / "faults.csv", FAULTS)
    keras_model = load_keras_file(tmp_path / "net.keras")
    before = [np.asarray(variable.value).copy() for variable in keras_model.variables]
    natives = [lambda model: torch_native(module), lambda model: keras_native(model, keras_model)]
    verdicts = crosscheck(path, tmp_path / "faults.csv", natives=natives, run=tmp_path / "run", workers=1)
    assert [verdict.native for verdict in verdicts] == ["torch", "keras"]
    for verdict in verdicts:
        verdict.check()
        assert verdict.clean.relative < 1e-5
        for row in verdict.injections:
            assert row.native["critical"] == row.runtime["critical"], (verdict.native, row.id)
    assert sum(row.native["critical"] or 0 for row in verdicts[1].injections) > 0
    for variable, values in zip(keras_model.variables, before, strict=True):
        assert np.asarray(variable.value).tobytes() == values.tobytes()
