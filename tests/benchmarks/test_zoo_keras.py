"""Every network of the zoo in Keras: the same bits, parameter by parameter, in the file that Keras's export makes.

``pytest tests/benchmarks/test_zoo_keras.py`` runs all of them, many minutes; tests/models/test_zoo_keras.py runs a few.
"""

from pathlib import Path

import pytest

from bitswap_onnx.models import zoo
from tests.zoo_in_keras import check

pytest.importorskip("keras", reason="needs the extra [keras]")


@pytest.mark.parametrize("network", list(zoo.networks()), ids=lambda network: f"{network.name}-{network.dataset.name}")
def test_all_parameters_keep_their_bits(network: zoo.Network, tmp_path: Path) -> None:
    check(network, tmp_path)
