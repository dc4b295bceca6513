"""A run that tests of estimates share."""

from pathlib import Path

import numpy as np
import pytest

from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.faults.fault_list import read_fault_list
from bitswap_onnx.graph.model import load_model
from bitswap_onnx.sampling.generate import generate_faults
from bitswap_onnx.sampling.request import SamplingRequest
from tests.builders import cnn, normal, save


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of drawn faults of a small model over 20 labelled inputs, begun without the design; that lies beside it."""
    folder = tmp_path_factory.mktemp("estimate")
    save(cnn(), folder / "cnn.onnx")
    np.savez(folder / "cnn.npz", x=normal(20, 1, 6, 6, seed=3), y=np.arange(20) % 4)
    generate_faults(load_model(folder / "cnn.onnx"), SamplingRequest(scheme="layer", margin=0.1), folder / "f.csv")
    listed = list(read_fault_list(folder / "f.csv"))
    run_campaign(
        prepare(folder / "cnn.onnx", Settings(seed=1)), listed, options=RunOptions(run=folder / "run", workers=1)
    )
    return folder / "run"
