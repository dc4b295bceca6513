"""How other injectors run a fault of ResNet20, and how long an inference takes there: one row per injector.

``python -m tests.benchmarks.other_injectors --reference FOLDER`` prints a table. The weights are the published ones, the
faults are drawn from the convolutions of the published list, the images are CIFAR-10's. Each loop runs some faults over all
images, in one process with 2 threads; its time per inference is the median fault's. Ours is a whole campaign of 2 % of the
list, as a process with default options, imports and files included. Critical counts are compared with ours, fault by fault.

| row | what runs |
|---|---|
| bitswap-onnx | ``bitswap-onnx inject`` |
| eager PyTorch | the loop of SFIadvancedmodels (commit 7448ba0): flip the bit in the parameter, run in eager mode |
| PyTorchFI | its own code, version 0.6.0 (``pip install --no-deps pytorchfi``): a deep copy of the network per fault |
| Keras | the loop of tf_injector (D4De/keras_weight_injector, commit 060361e): ``set_weights``, call the model per batch |
"""

import argparse
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.converters.onnx_to_keras import onnx_to_keras
from bitswap_onnx.faults.fault import Fault, Injection
from bitswap_onnx.faults.fault_list import read_fault_list
from tests.benchmarks import subjects
from tests.benchmarks.eager_loop import EagerLoop
from tests.benchmarks.engine_speed import Files, run_ours

SEED, SHARE, TIMED = 2026, 0.02, 6

#: Runs one fault over all images; returns the critical count.
Loop = Callable[[Injection], int]
Images = NDArray[np.float32]


def flipped(value: float, bit: int) -> float:
    """Return a float32 with one bit flipped."""
    bits = np.float32(value).view(np.uint32) ^ np.uint32(1 << bit)
    return float(bits.view(np.float32))


def only_fault(injection: Injection) -> tuple[Fault, int]:
    (fault,) = injection.faults
    assert fault.bit is not None
    return fault, fault.bit


def eager_loop(network: torch.nn.Module, images: Images, batch: int) -> Loop:
    return EagerLoop(network, images, batch).critical


def pytorchfi_loop(network: torch.nn.Module, images: Images, batch: int) -> Loop:
    from pytorchfi.core import fault_injection

    logging.disable(logging.CRITICAL)
    injector = fault_injection(network, batch, list(images.shape[1:]), [torch.nn.Conv2d])
    convolutions = [name for name, module in network.named_modules() if isinstance(module, torch.nn.Conv2d)]
    inputs = torch.from_numpy(images)

    @torch.no_grad()
    def predictions(faulty: torch.nn.Module) -> NDArray[np.int64]:
        scores = [faulty(inputs[first : first + batch]).numpy() for first in range(0, len(inputs), batch)]
        return np.asarray(np.argmax(np.concatenate(scores), axis=1))

    clean = predictions(network)

    def critical(injection: Injection) -> int:
        fault, bit = only_fault(injection)
        where = {name: [size] for name, size in zip(("k", "dim1", "dim2", "dim3"), fault.index, strict=True)}
        faulty = injector.declare_weight_fi(
            layer_num=[convolutions.index(fault.layer)],
            function=lambda weight, index: flipped(weight[index].item(), bit),
            **where,
        )
        return int(np.sum(predictions(faulty) != clean))

    return critical


def keras_loop(model: Path, images: Images, batch: int) -> Loop:
    import keras

    converted = model.with_suffix(".keras")
    made = onnx_to_keras(model, converted).parameters
    layers = {initializer.removesuffix(".weight"): variable.split("/")[0] for variable, initializer in made.items()}
    network = keras.models.load_model(converted)
    inputs = images.transpose(0, 2, 3, 1)

    def predictions() -> NDArray[np.int64]:
        scores = [np.asarray(network(inputs[first : first + batch])) for first in range(0, len(inputs), batch)]
        return np.asarray(np.argmax(np.concatenate(scores), axis=1))

    clean = predictions()

    def critical(injection: Injection) -> int:
        fault, bit = only_fault(injection)
        layer = network.get_layer(layers[fault.layer])
        weights: list[Any] = layer.get_weights()
        stored = weights[0].copy()
        place = tuple(fault.index[axis] for axis in (2, 3, 1, 0))
        weights[0][place] = flipped(weights[0][place], bit)
        layer.set_weights(weights)
        count = int(np.sum(predictions() != clean))
        layer.set_weights([stored, *weights[1:]])
        return count

    return critical


def timed(loop: Loop, faults: Sequence[Injection]) -> tuple[dict[str, int], float]:
    """Return the critical count of each fault, and the median of their seconds; the first fault runs twice."""
    loop(faults[0])
    counts, seconds = {}, []
    for injection in faults:
        start = time.perf_counter()
        counts[injection.id] = loop(injection)
        seconds.append(time.perf_counter() - start)
    return counts, median(seconds)


def rows(options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, float, str]]:
    """Yield each injector's name, its seconds per inference, and in how many faults its critical count is another."""
    subject = subjects.make_subject("ResNet20", options.reference, folder)
    everything = [item for item in read_fault_list(subject.faults) if len(item.faults[0].index) == 4]
    faults = subjects.draw(everything, round(SHARE * len(everything)), SEED)
    some = subjects.draw(faults, options.timed, SEED)
    dataset = prepare(subject.model, subjects.image_settings(options.reference, options.inputs)).dataset
    images = np.asarray(dataset.batch(0, len(dataset)), np.float32)
    files = Files(folder, subject.model, folder / "images.npz")
    np.savez(files.images, x=images)
    settings = argparse.Namespace(batch_size=None, workers=None)
    ours = run_ours(files, files.write_list("faults", faults), folder / "run", settings)
    found = ours.critical()
    yield f"bitswap-onnx ({len(faults)} faults)", ours.seconds / (len(faults) * len(images)), ""
    loops = {
        "eager PyTorch, as SFIadvancedmodels": eager_loop(subject.network, images, options.batch),
        "PyTorchFI 0.6.0": pytorchfi_loop(subject.network, images, options.batch),
        "Keras, as tf_injector": keras_loop(subject.model, images, options.batch),
    }
    for name, loop in loops.items():
        counts, seconds = timed(loop, some)
        differing = sum(found[fault] != count for fault, count in counts.items())
        yield name, seconds / len(images), f"{differing} of {len(counts)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    subjects.add_reference(parser)
    parser.add_argument("--inputs", type=int, default=846)
    parser.add_argument("--timed", type=int, default=TIMED, help="faults that each loop is timed on")
    parser.add_argument("--batch", type=int, default=256)
    options = parser.parse_args()
    torch.set_num_threads(2)
    print(f"{subjects.machine()}\n\n| injector | ms per inference | times ours | criticals differ |\n|---|---|---|---|")
    own = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for name, seconds, differing in rows(options, Path(folder)):
            own = own or seconds
            print(f"| {name} | {1e3 * seconds:.3f} | {seconds / own:.1f} | {differing} |", flush=True)


if __name__ == "__main__":
    main()
