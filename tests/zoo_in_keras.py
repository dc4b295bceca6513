"""A network of the zoo in Keras: the same bits, parameter by parameter, in the file that Keras's export makes."""

from pathlib import Path

from bitswap_onnx.converters.torch_to_onnx import export_torch
from bitswap_onnx.graph.model import load_model
from bitswap_onnx.graph.pairing import pair_targets
from bitswap_onnx.graph.targets import find_targets
from bitswap_onnx.models import zoo


def check(network: zoo.Network, tmp_path: Path) -> None:
    """PyTorch → ONNX → Keras → ONNX; besides the converters' own comparison, every target finds a partner by content."""
    from bitswap_onnx.converters.keras_to_onnx import export_keras
    from bitswap_onnx.converters.onnx_to_keras import onnx_to_keras

    torch_report = export_torch(
        zoo.build(network.name, network.dataset.name), network.dataset.input_shape, tmp_path / "torch.onnx"
    )
    to_keras = onnx_to_keras(tmp_path / "torch.onnx", tmp_path / "net.keras")
    keras_report = export_keras(tmp_path / "net.keras", tmp_path / "keras.onnx")
    assert set(to_keras.parameters.values()) == set(torch_report.parameters)
    assert set(keras_report.parameters) == set(to_keras.parameters)
    torch_model, keras_model = load_model(tmp_path / "torch.onnx"), load_model(tmp_path / "keras.onnx")
    pairing = pair_targets(torch_model, keras_model)
    assert pairing.unpaired == {}
    assert len(pairing.pairs) == len(find_targets(torch_model)) == len(find_targets(keras_model))
