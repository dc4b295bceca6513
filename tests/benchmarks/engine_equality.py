"""Do the incremental and the reference engine count alike? results.csv of both, byte by byte.

``python -m tests.benchmarks.engine_equality [--reference FOLDER] [--only ResNet20]`` runs both engines, without an audit,
on ResNet20 (trained weights, 300 random published faults × 256 CIFAR-10 images; ``--fusion`` framework and deployed,
``--layout`` plain and blocked), on its Keras export (100 faults of the converted list × 128 images, plain and blocked) and
on Vgg11_bn, DenseNet121, MobileNetV2 and GoogLeNet (random weights, 30 faults × 32 images, plain and blocked). The latter's
faults lie in 3 random layers each and run in batches of 8, so that a layer has enough to run for a faster lane than the
whole model; half of them hit sign or exponent. It prints one line per case, with the lanes that its faulty paths ran on,
and ends with 1 if anything differs. ``--scores`` compares all scores too.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Literal

import numpy as np

from bitswap_onnx.campaign.options import Audit
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.faults.fault import Fault, Injection
from bitswap_onnx.faults.fault_list import read_fault_list
from bitswap_onnx.graph.list_conversion import converted_faults
from bitswap_onnx.graph.model import load_model
from bitswap_onnx.graph.targets import find_targets
from tests.benchmarks import subjects

FUSIONS: tuple[Literal["framework", "deployed"], ...] = ("framework", "deployed")
LAYOUTS: tuple[Literal["plain", "blocked"], ...] = ("plain", "blocked")
KERAS = "ResNet20-Keras"

#: Sign and exponent of float32.
HIGH_BITS = range(23, 32)


@dataclass(frozen=True, eq=False)
class Case:
    """A model file, faults in it, and images to run them on."""

    name: str
    model: Path
    faults: list[Injection]
    inputs: int
    batch: int | None = None


def in_few_layers(model: Path, layers: int, count: int, seed: int) -> list[Injection]:
    """Return flips in ``layers`` random kernels, as many in each; half of them in sign or exponent."""
    generator = random.Random(seed)
    kernels = [target for target in find_targets(load_model(model)) if target.role == "weight"]
    chosen = generator.sample(kernels, min(layers, len(kernels)))
    faults = []
    for number in range(count):
        kernel = chosen[number % len(chosen)]
        index = tuple(generator.randrange(size) for size in kernel.shape)
        bit = generator.choice(HIGH_BITS) if number // len(chosen) % 2 else generator.randrange(32)
        faults.append(Injection(str(number), (Fault(kernel.layer, index, bit),)))
    return faults


def resnet(options: argparse.Namespace, folder: Path) -> Case:
    subject = subjects.make_subject("ResNet20", options.reference, folder)
    faults = subjects.draw(subject.faults, options.faults or 300, options.seed)
    return Case("ResNet20", subject.model, faults, options.inputs or 256)


def keras_resnet(options: argparse.Namespace, folder: Path) -> Case:
    from bitswap_onnx.converters.keras_to_onnx import export_keras
    from bitswap_onnx.converters.onnx_to_keras import onnx_to_keras

    subject = subjects.make_subject("ResNet20", options.reference, folder)
    onnx_to_keras(subject.model, folder / "net.keras")
    export_keras(folder / "net.keras", folder / "keras.onnx")
    source, partner = load_model(subject.model), load_model(folder / "keras.onnx")
    converted = converted_faults(read_fault_list(subject.faults), source, partner)
    faults = subjects.draw(converted, options.faults or 100, options.seed)
    return Case(KERAS, folder / "keras.onnx", faults, options.inputs or 128)


def random_weights(name: str) -> Callable[[argparse.Namespace, Path], Case]:
    def make(options: argparse.Namespace, folder: Path) -> Case:
        model = subjects.make_subject(name, options.reference, folder).model
        faults = in_few_layers(model, options.layers, options.faults or 30, options.seed)
        return Case(name, model, faults, options.inputs or 32, batch=8)

    return make


CASES: dict[str, Callable[[argparse.Namespace, Path], Case]] = {
    "ResNet20": resnet,
    KERAS: keras_resnet,
    **{name: random_weights(name) for name in ("Vgg11_bn", "DenseNet121", "MobileNetV2", "GoogLeNet")},
}


def difference(first: Path, second: Path) -> str:
    """Return the first line in which two runs' results differ, or their first scores that do; empty if none does."""
    lines = [(run / "results.csv").read_text().splitlines() for run in (first, second)]
    for number, (one, other) in enumerate(zip_longest(*lines), 1):
        if one != other:
            return f"results.csv, line {number}:\n    {lines[0][0]}\n    reference   {one}\n    incremental {other}"
    for file in sorted((first / "outputs").glob("*.npy")):
        one, other = np.load(file), np.load(second / "outputs" / file.name)
        if not np.array_equal(one, other, equal_nan=True):
            rows = np.flatnonzero(((one != other) & ~(np.isnan(one) & np.isnan(other))).any(axis=1))
            return f"scores {file.name}: {len(rows)} of {len(one)} inputs differ, the first is {rows[0]}"
    return ""


def compare(case: Case, settings: Settings, options: argparse.Namespace, folder: Path) -> str:
    """Run both engines and print how they compare; return the difference."""
    runs = {}
    for engine in ("reference", "incremental"):
        runs[engine] = subjects.campaign(
            case.model,
            case.faults,
            folder / f"{settings.fusion}-{settings.layout}-{engine}",
            settings,
            engine="reference" if engine == "reference" else "incremental",
            workers=options.workers,
            memory=options.memory and options.memory << 20,
            audit=Audit(0),
            save_outputs=options.scores,
        )
    found = difference(runs["reference"].run, runs["incremental"].run)
    critical = sum(runs["reference"].critical().values())
    print(
        f"{case.name} | {settings.fusion}, {settings.layout} | {len(case.faults)} faults x {case.inputs} | "
        f"{critical:,} critical | paths: {runs['incremental'].lanes} | "
        f"{found or 'equal'}",
        flush=True,
    )
    return found


def variants(case: Case, settings: Settings) -> Iterator[Settings]:
    for fusion in FUSIONS if case.name == "ResNet20" else FUSIONS[:1]:
        for layout in LAYOUTS:
            yield replace(settings, fusion=fusion, layout=layout)


def main() -> None:
    parser = argparse.ArgumentParser()
    subjects.add_reference(parser)
    parser.add_argument("--only", nargs="+", choices=list(CASES))
    parser.add_argument("--faults", type=int, help="in place of each case's own number")
    parser.add_argument("--inputs", type=int, help="in place of each case's own number")
    parser.add_argument("--layers", type=int, default=3, help="that the faults of networks with random weights lie in")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--memory", type=int, help="MiB for all workers together")
    parser.add_argument("--scores", action="store_true", help="compare all scores too")
    options = parser.parse_args()
    print(subjects.machine(), flush=True)
    differing = 0
    for name in options.only or CASES:
        with tempfile.TemporaryDirectory() as folder:
            case = CASES[name](options, Path(folder))
            images = subjects.image_settings(options.reference, case.inputs)
            images = replace(images, batch_size=options.batch_size or case.batch)
            differing += sum(
                bool(compare(case, settings, options, Path(folder))) for settings in variants(case, images)
            )
    print("all equal" if not differing else f"{differing} cases differ")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
