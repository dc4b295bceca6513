"""The model of the small campaign, and its finished run, which tests share."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from bitswap_onnx.campaign.run import Campaign
from tests.builders import cnn, normal, save
from tests.campaign.small_campaign import INPUTS, run


def small_model(folder: Path) -> Path:
    path = save(cnn(), folder / "cnn.onnx")
    labels = np.random.default_rng(1).integers(0, 4, INPUTS)
    np.savez(folder / "cnn.npz", x=normal(INPUTS, 1, 6, 6, seed=3), y=labels)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The small CNN with labelled data beside it."""
    return small_model(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """A finished campaign of all faults, for tests that only read it."""
    folder = tmp_path_factory.mktemp("finished")
    return run(small_model(folder), folder / "run")


@pytest.fixture
def finished_run(finished: Campaign, tmp_path: Path) -> Path:
    """A copy of the finished campaign's run directory, beside the model."""
    return Path(shutil.copytree(finished.run, tmp_path / "run"))
