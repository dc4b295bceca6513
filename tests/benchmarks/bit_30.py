"""Bit-30 faults, which make most critical outcomes: ONNX Runtime against native PyTorch, nonfinite split out.

``python tests/benchmarks/bit_30.py [--checkout DNN_BENCHMARKS]`` exports ResNet20, VGG11_bn and GoogLeNet (CIFAR-10; trained
weights where the checkout has them, else seeded random ones), draws bit-30 flips of kernels, 100, 50 and 50, and prints one
row per network. GoogLeNet and VGG11_bn pool, where ONNX Runtime and PyTorch treat a NaN differently.
"""

import argparse
import random
import tempfile
from pathlib import Path

from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.converters.native import torch_native
from bitswap_onnx.converters.torch_to_onnx import export_torch
from bitswap_onnx.experiments.crosscheck.run import Verdict, crosscheck
from bitswap_onnx.faults.fault import Fault, Injection
from bitswap_onnx.faults.fault_list import write_fault_list
from bitswap_onnx.graph.model import load_model
from bitswap_onnx.graph.targets import find_targets
from bitswap_onnx.models import zoo

NETWORKS = (("ResNet20", 100), ("Vgg11_bn", 50), ("GoogLeNet", 50))
INPUTS = 32


def draw(model: Path, count: int) -> list[Injection]:
    """Return bit-30 flips of kernels, drawn in proportion to their sizes."""
    kernels = [target for target in find_targets(load_model(model)) if target.role == "weight"]
    generator = random.Random(30)
    chosen = generator.choices(kernels, [kernel.elements for kernel in kernels], k=count)
    indices = [tuple(generator.randrange(size) for size in kernel.shape) for kernel in chosen]
    return [
        Injection(str(number), (Fault(kernel.layer, index, 30),))
        for number, (kernel, index) in enumerate(zip(chosen, indices, strict=True))
    ]


def check(name: str, count: int, checkout: Path | None, folder: Path) -> tuple[str, Verdict]:
    trained = checkout is not None and (checkout / zoo.find(name, "CIFAR10").weights).is_file()
    network = zoo.build(name, "CIFAR10", checkout if trained else None)
    model = folder / f"{name}.onnx"
    export_torch(network, (3, 32, 32), model)
    write_fault_list(folder / f"{name}.csv", draw(model, count))
    (verdict,) = crosscheck(
        model,
        folder / f"{name}.csv",
        natives=[lambda loaded: torch_native(network)],
        run=folder / name,
        settings=Settings(data=f"synthetic:{INPUTS}"),
    )
    return "trained" if trained else "random", verdict


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkout", type=Path)
    checkout = parser.parse_args().checkout
    print("network | weights | inferences | finite, differ unexplained | near ties | nonfinite | of these differ")
    with tempfile.TemporaryDirectory() as folder:
        for name, count in NETWORKS:
            weights, verdict = check(name, count, checkout, Path(folder))
            rows = verdict.injections
            numbers = (
                sum(row.inputs for row in rows),
                verdict.unexplained,
                sum(row.near_ties for row in rows),
                sum(row.nonfinite for row in rows),
                sum(row.nonfinite_differing for row in rows),
            )
            print(" | ".join([name, weights, *map(str, numbers)]), flush=True)


if __name__ == "__main__":
    main()
