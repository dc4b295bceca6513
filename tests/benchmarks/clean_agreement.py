"""Clean scores of the trained ResNet20 and ResNet32 in five runtimes: do they agree on 846 CIFAR-10 images?

``python tests/benchmarks/clean_agreement.py REFERENCE`` (the folder that BITSWAP_REFERENCE names) runs native PyTorch, ONNX
Runtime on PyTorch's file and on Keras's, native Keras, and TensorFlow through onnx2tf. It prints, against PyTorch, how many
predictions differ and the largest score difference, and fails above 0 and 1e-4.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.converters.keras_setup import load_keras_file
from bitswap_onnx.converters.keras_to_onnx import export_keras
from bitswap_onnx.converters.native import keras_native, tensorflow_native, torch_native
from bitswap_onnx.converters.onnx_to_keras import onnx_to_keras
from bitswap_onnx.converters.torch_to_onnx import export_torch
from bitswap_onnx.data.preprocessing import Preprocessing
from bitswap_onnx.graph.model import load_model
from bitswap_onnx.models import zoo


def all_scores(name: str, reference: Path, folder: Path) -> dict[str, NDArray[np.floating]]:
    network = zoo.build(name, "CIFAR10", reference / "dnn-benchmarks")
    export_torch(network, (3, 32, 32), folder / "torch.onnx")
    onnx_to_keras(folder / "torch.onnx", folder / "net.keras")
    export_keras(folder / "net.keras", folder / "keras.onnx")
    settings = Settings(data=reference / "cifar10/test_846.npz", preprocessing=Preprocessing(preset="cifar10"))
    setups = {file: prepare(folder / f"{file}.onnx", settings) for file in ("torch", "keras")}
    inputs = setups["torch"].dataset.batch(0, 846)
    model = load_model(folder / "torch.onnx")
    return {
        "PyTorch": torch_native(network).clean(inputs),
        "ONNX Runtime, PyTorch's file": setups["torch"].clean_run().golden.scores,
        "ONNX Runtime, Keras's file": setups["keras"].clean_run().golden.scores,
        "Keras": keras_native(model, load_keras_file(folder / "net.keras")).clean(inputs),
        "TensorFlow by onnx2tf": tensorflow_native(model).clean(inputs),
    }


def main() -> None:
    for name in ("ResNet20", "ResNet32"):
        with tempfile.TemporaryDirectory() as folder:
            scores = all_scores(name, Path(sys.argv[1]), Path(folder))
        native = scores["PyTorch"]
        for runtime, found in scores.items():
            differing = int(np.sum(found.argmax(axis=1) != native.argmax(axis=1)))
            distance = float(np.abs(found.astype(np.float64) - native).max())
            print(
                f"{name} | {runtime} | {differing} of {len(native)} predictions differ | scores within {distance:.1e}"
            )
            assert differing == 0
            assert distance <= 1e-4


if __name__ == "__main__":
    main()
