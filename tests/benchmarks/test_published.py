"""ResNet-20 with its published weights: our campaign against a plain PyTorch loop, and against the published outcomes."""

import csv
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.converters.torch_checkpoint import load_state_dict_file
from bitswap_onnx.converters.torch_to_onnx import export_torch
from bitswap_onnx.data.preprocessing import Preprocessing
from bitswap_onnx.faults.fault import Injection
from bitswap_onnx.faults.fault_list import read_fault_list
from bitswap_onnx.models.resnet_cifar import resnet
from tests import reference

FAULTS = 200


def sample() -> list[Injection]:
    faults = list(read_fault_list(reference.RESNET_FILES / "ResNet20_FL.csv"))
    return sorted(random.Random(2026).sample(faults, FAULTS), key=lambda injection: int(injection.id))


@torch.no_grad()
def native_criticals(network: torch.nn.Module, injections: list[Injection]) -> list[int]:
    """Flip the bit in the parameter, run all images, flip it back: what injectors for PyTorch do."""
    with np.load(reference.IMAGES) as data:
        pixels = torch.from_numpy(data["x"]).float() / 255
    mean, std = (torch.tensor(c).reshape(3, 1, 1) for c in ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)))
    images = (pixels - mean) / std

    def predictions() -> NDArray[np.int64]:
        scores = [network(images[first : first + 256]).numpy() for first in range(0, len(images), 256)]
        return np.asarray(np.argmax(np.concatenate(scores), axis=1))  # NaN first

    clean = predictions()
    counts = []
    for injection in injections:
        (fault,) = injection.faults
        bits = network.get_parameter(f"{fault.layer}.weight").numpy().view(np.uint32)
        mask = np.uint32(1 << (fault.bit or 0))
        bits[fault.index] ^= mask
        counts.append(int(np.sum(predictions() != clean)))
        bits[fault.index] ^= mask
    assert np.array_equal(predictions(), clean)
    return counts


@reference.needed
def test_criticals_are_those_of_pytorch_and_of_the_publication(tmp_path: Path) -> None:
    """Injection by injection against native PyTorch; the mean within 0.3 points of the published GPU results."""
    network = resnet(20)
    network.load_state_dict(load_state_dict_file(reference.RESNET_FILES / "ResNet20.th"))
    export_torch(network.eval(), (3, 32, 32), tmp_path / "resnet20.onnx")
    injections = sample()
    settings = Settings(data=reference.IMAGES, preprocessing=Preprocessing(preset="cifar10"))
    finished = run_campaign(
        prepare(tmp_path / "resnet20.onnx", settings), injections, options=RunOptions(run=tmp_path / "run")
    )
    with (tmp_path / "run/results.csv").open() as file:
        ours = {row["Injection"]: int(row["critical"]) for row in csv.DictReader(file)}
    assert [ours[injection.id] for injection in injections] == native_criticals(network, injections)
    assert finished.golden["top_1_correct"] == round(0.9125 * 846)
    with (reference.RESNET_FILES / "ResNet20_FL.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["Injection"] in ours]
    published = np.mean([int(row["critical"]) / int(row["n_injections"]) for row in rows])
    share = sum(ours.values()) / (FAULTS * 846)
    print(f"critical share: ours {share:.4%}, published {published:.4%}")
    assert share == pytest.approx(published, abs=0.003)
