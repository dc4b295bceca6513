"""The small trained classifier that ships with the project: 8×8 images of handwritten digits, trained in seconds.

``python -m bitswap_onnx.models.digits`` makes its files again, byte for byte on the same software and CPU: the ONNX
model, the held-out images, and a fault list with every bit and every parameter of every layer, with its design. The
images are scikit-learn's (UCI "Optical Recognition of Handwritten Digits").
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.converters.torch_checkpoint import require_torch
from bitswap_onnx.converters.torch_to_onnx import export_torch
from bitswap_onnx.errors import BitswapError, MissingExtraError, ModelError
from bitswap_onnx.faults.fault import Fault, Injection
from bitswap_onnx.faults.fault_list import write_fault_list
from bitswap_onnx.files import replacing
from bitswap_onnx.graph.model import Model, load_model
from bitswap_onnx.graph.targets import Target, find_targets
from bitswap_onnx.sampling.choices import IN_TURN
from bitswap_onnx.sampling.design import ListDesign, StratumDesign, design_path
from bitswap_onnx.sampling.population import find_population, population_coverage
from bitswap_onnx.sampling.request import STRATUM_NAMES, SamplingRequest
from bitswap_onnx.sampling.strata import Stratum, stratify

if TYPE_CHECKING:
    from torch import nn

SEED = 1797
HELD_OUT = 360
EPOCHS = 25
BATCH = 64
FAULTS = 500
_ROLES = "weight,bias,bn_scale,bn_bias,bn_mean,bn_var"

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


def example_design(model: Model, faults: Sequence[Injection], fingerprint: str) -> ListDesign:
    """Return the design of `draw_example_faults`; ``fingerprint`` is the list's hash.

    Every tensor has the same number of faults, whatever its size, and so does every bit: some one more than others. Within
    a tensor, bits that occur equally often in the list are interchangeable, and elements are drawn at random. So a stratum
    is a tensor with those bits, and each of its faults has the same chance. Bits are spread more evenly there than by
    chance, which only narrows the spread.
    """
    request = SamplingRequest(scheme=IN_TURN, number=FAULTS, parameters=_ROLES, seed=SEED)
    times = Counter(fault.bit for injection in faults for fault in injection.faults)
    groups = [
        tuple(bit for bit in range(32) if times[bit] == often) for often in sorted(set(times.values()), reverse=True)
    ]
    tensors = find_population(model, parameters=_ROLES)
    regions = tuple(replace(region, bits=group) for region in tensors for group in groups)
    strata = stratify(regions, STRATUM_NAMES[IN_TURN])
    numbers = {(region.tensor, bit): i for i, one in enumerate(strata) for region in one.regions for bit in one.bits}
    named = {(target.layer, target.role): target.tensor for target in find_targets(model)}
    hit = [(named[fault.layer, fault.parameter or ""], fault.bit or 0) for (fault,) in (one.faults for one in faults)]
    order = [numbers[place] for place in hit]
    designs = tuple(_stratum_design(stratum, order, number) for number, stratum in enumerate(strata))
    return ListDesign(
        request=request,
        t=request.quantile,
        model=model.name,
        model_sha256=model.sha256,
        regions=regions,
        strata=designs,
        population=sum(entry.population for entry in designs),
        size=len(faults),
        list_sha256=fingerprint,
        coverage=population_coverage(model, tensors),
        order=tuple(order),
    )


def _stratum_design(stratum: Stratum, order: Sequence[int], number: int) -> StratumDesign:
    (region,) = stratum.regions
    return StratumDesign(
        name=stratum.name,
        layer=region.layer,
        parameter=region.address[1] or "weight",
        bits=stratum.bits,
        population=stratum.slots,
        counted=stratum.slots,
        p=None,
        first=order.index(number),
        size=order.count(number),
    )


def make(out: Path) -> float:
    """Train, and write model and images to ``out``/models, the fault list and its design to ``out``/fault_lists.

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
    write_example_faults(model, out / "fault_lists" / "digits_cnn.csv")
    return accuracy(network, (x, y))


def write_example_faults(model: Path, path: Path) -> None:
    """Draw the fault list of ``model``, and write it to ``path`` and its design beside it."""
    loaded = load_model(model)
    faults = draw_example_faults(find_targets(loaded))
    design = example_design(loaded, faults, write_fault_list(path, faults))
    with replacing(design_path(path)) as file:
        file.write(design.text)


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
    """Make the files."""
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
