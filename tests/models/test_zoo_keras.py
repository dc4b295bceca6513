"""Networks of each kind in the zoo, in Keras: the same bits; tests/benchmarks/test_zoo_keras.py runs every one."""

from pathlib import Path

import pytest

from bitswap_onnx.models import zoo
from tests.zoo_in_keras import check

pytest.importorskip("keras", reason="needs the extra [keras]")
pytestmark = pytest.mark.torch


@pytest.mark.parametrize(
    ("name", "dataset"),
    [
        ("ResNet20", "GTSRB"),
        ("MobileNetV2", "CIFAR10"),
        ("Vgg11_bn", "GTSRB"),
        ("GoogLeNet", "CIFAR100"),
        ("ResNet18", "CIFAR100"),
    ],
)
def test_all_parameters_keep_their_bits(name: str, dataset: str, tmp_path: Path) -> None:
    check(zoo.find(name, dataset), tmp_path)
