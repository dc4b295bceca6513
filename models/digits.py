"""The small trained classifier that ships with the project: 8×8 images of handwritten digits, trained in seconds.

``python -m bitswap_onnx.models.digits`` makes its three files again, byte for byte on the same software and CPU: the ONNX
model, the held-out images, and a fault list with every bit and every parameter of every layer. The images are
scikit-learn's (UCI "Optical Recognition of Handwritten Digits").
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.converters.torch_checkpoint import require_torch
from bitswap_onnx.converters.torch_to_onnx import export_torch
from bitswap_onnx.errors import BitswapError, MissingExtraError, ModelError
from bitswap_onnx.faults.fault import Fault, Injection
from bitswap_onnx.faults.fault_list import write_fault_list
from bitswap_onnx.graph.model import load_model
from bitswap_onnx.graph.targets import Target, find_targets

if TYPE_CHECKING:
    from torch import nn

SEED = 1797
HELD_OUT = 360
EPOCHS = 25
BATCH = 64
FAULTS = 500

Digits = tuple[NDArray[np.float32], NDArray[np.int64]]


def digits_cnn() -> "nn.Module":
    """Return the untrained network: (batch, 1, 8, 8) → scores (batch, 10)."""
    require_torch()
    from torch import nn

    layers = {
        "conv1": nn.Conv2d(1, 8, 3, padding=1, bias=False),
        "bn1": nn.BatchNorm2d(8),
        "relu1": nn.ReLU(),
        "conv2": nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
        "bn2": nn.BatchNorm2d(16),
        "relu2": nn.ReLU(),
        "conv3": nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
        "bn3": nn.BatchNorm2d(32),
        "relu3": nn.ReLU(),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "linear": nn.Linear(32, 10),
    }
    network = nn.Sequential()
    for name, layer in layers.items():
        network.add_module(name, layer)
    return network


def load_digits() -> tuple[Digits, Digits]:
    """Return (training, held-out) images and labels: x (n, 1, 8, 8) in 0-1, y (n,); equal shares of each digit."""
    try:
        from sklearn import datasets, model_selection
    except ImportError:
        raise MissingExtraError(
            "scikit-learn is not installed; it comes with: pip install 'bitswap-onnx[dev]'"
        ) from None
    images, labels = datasets.load_digits(return_X_y=True)
    x = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    x_train, x_held, y_train, y_held = model_selection.train_test_split(
        x, labels.astype(np.int64), test_size=HELD_OUT, stratify=labels, random_state=SEED
    )
    return (x_train, y_train), (x_held, y_held)


def train(digits: Digits) -> "nn.Module":
    """Return the network, trained on ``digits``; the same bits every time on the same software and CPU."""
    require_torch()
    import torch
    from torch import nn

    x, y = (torch.from_numpy(array) for array in digits)
    with _reproducible():
        network = digits_cnn()
        batches = -(-len(x) // BATCH)
        optimizer = torch.optim.Adam(network.parameters(), weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=EPOCHS * batches)
        for _ in range(EPOCHS):
            for rows in torch.chunk(torch.randperm(len(x)), batches):
                optimizer.zero_grad()
                torch.autograd.backward(nn.functional.cross_entropy(network(x[rows]), y[rows]))
                optimizer.step()
                schedule.step()
    return network


def draw_example_faults(targets: Sequence[Target]) -> list[Injection]:
    """Return `FAULTS` different single-bit flips: targets and bits in turn, elements at random."""
    generator = np.random.default_rng(SEED)
    bits = generator.permutation(np.arange(FAULTS) % 32)
    drawn: dict[tuple[str, tuple[int, ...], int], Injection] = {}
    while len(drawn) < FAULTS:
        number = len(drawn)
        target, bit = targets[number % len(targets)], int(bits[number])
        index = tuple(int(generator.integers(size)) for size in target.shape)
        fault = Fault(target.layer, index, bit, parameter=target.role)
        drawn.setdefault((target.tensor, index, bit), Injection(str(number), (fault,)))
    return list(drawn.values())


def make(out: Path) -> float:
    """Train, and write models/digits_cnn.onnx, models/digits_cnn.npz and fault_lists/digits_cnn.csv below ``out``.

    Returns the share of held-out images that the network classifies right. Raises ModelError where the folders are
    missing or cannot be written.
    """
    for folder in (out / "models", out / "fault_lists"):
        if not folder.is_dir():
            raise ModelError(f"{folder}: expected a folder to write to; make it first")
    training, (x, y) = load_digits()
    network = train(training)
    model = out / "models" / "digits_cnn.onnx"
    export_torch(network, (1, 8, 8), model)
    np.savez_compressed(model.with_suffix(".npz"), x=x, y=y)
    faults = draw_example_faults(find_targets(load_model(model)))
    write_fault_list(out / "fault_lists" / "digits_cnn.csv", faults)
    return accuracy(network, (x, y))


def accuracy(network: "nn.Module", digits: Digits) -> float:
    """Return the share of ``digits`` that ``network`` classifies right at inference."""
    require_torch()
    import torch

    x, y = (torch.from_numpy(array) for array in digits)
    with torch.no_grad():
        return float((network.eval()(x).argmax(1) == y).double().mean())


@contextmanager
def _reproducible() -> Iterator[None]:
    """Use one thread, a fixed seed and deterministic kernels; afterwards restore the caller's settings."""
    import torch

    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(deterministic)
            torch.set_num_threads(threads)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the three files."""
    parser = argparse.ArgumentParser(prog="python -m bitswap_onnx.models.digits", description="Train the digits model.")
    repository = Path(__file__).resolve().parent.parent
    parser.add_argument("--out", type=Path, default=repository, help="folder with models/ and fault_lists/ in it")
    out = parser.parse_args(arguments).out
    try:
        share = make(out)
    except BitswapError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    print(f"{share:.2%} of {HELD_OUT} held-out images right")


if __name__ == "__main__":
    main()
