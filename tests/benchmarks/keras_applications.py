"""Networks of keras.applications: seconds for an export, parameters bit for bit, and faults as in Keras.

``python -m tests.benchmarks.keras_applications [--only NAME ...] [--faults 20] [--inputs 2]``. Each network has its default
size and classes, Keras's random kernels, and random numbers in its normalizations, which would have no effect otherwise.
Each runs in a process of its own. The export is timed alone, without imports and without building the network. The faults
are random flips of weights; they run as a campaign, and in Keras, as ``crosscheck --native keras`` runs them.

It prints one row per network: parameters that are stored bit for bit, seconds of the export and of processor time in it,
inferences with a fault, decisions that differ (near ties, and with NaN or Inf, in brackets), critical inferences on both
sides. It ends with 1 if a network is not exported, a parameter differs, or the rule of ``crosscheck`` is not kept.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from bitswap_onnx.errors import BitswapError
from bitswap_onnx.graph.model import load_model
from tests.benchmarks.keras_models import changed, critical, differing
from tests.benchmarks.subjects import machine
from tests.keras_faults import drawn_faults, verdicts
from tests.keras_models import inputs_for

NETWORKS = (
    "EfficientNetB0", "ConvNeXtTiny", "DenseNet121", "MobileNetV2", "ResNet50V2", "Xception", "InceptionV3", "NASNetMobile",
    "MobileNetV3Small",
)  # fmt: skip
HEADER = "| network | parameters | bits | export, s (CPU) | inferences | differ (ties, NaN) | critical here, in Keras |"


def network(name: str) -> Any:
    """Return a network of keras.applications with seeded random weights, also in its normalizations."""
    import keras

    from bitswap_onnx.converters.keras_setup import quiet

    with quiet():
        keras.utils.set_random_seed(0)
        size = {"input_shape": (224, 224, 3)} if name.startswith("MobileNetV3") else {}  # its default size is open
        model = getattr(keras.applications, name)(weights=None, **size)
    rng = np.random.default_rng(1)
    for variable in model.variables:
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape).astype(np.float32))
        elif variable.name in ("beta", "moving_mean"):
            variable.assign(rng.normal(0, 0.2, variable.shape).astype(np.float32))
    return model


def check(name: str, faults: int, inputs: int) -> bool:
    """Print the row of a network, and what is wrong with it; return whether all is well."""
    from bitswap_onnx.converters.keras_to_onnx import export_keras

    model = network(name)
    with tempfile.TemporaryDirectory() as folder:
        path, start, busy = Path(folder) / "m.onnx", time.perf_counter(), time.process_time()
        try:
            report = export_keras(model, path)
        except BitswapError as error:
            print(f"| {name} | - | - | - | - | - | - |\n    {error}")
            return False
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
        different = changed(model, path, report.unused)
        injections = drawn_faults(load_model(path), faults, seed=3)
        (verdict,) = verdicts(path, model, inputs_for(model, inputs), injections, with_predict=False)
    wrong = [f"{variable} is not stored bit for bit" for variable in different]
    try:
        verdict.check()
    except BitswapError as error:
        wrong.append(str(error))
    bits = f"{len(different)} differ" if different else "equal"
    sides = [sum(side["critical"] or 0 for side in pair) for pair in critical(verdict)]
    cells = [
        name,
        len(report.parameters),
        bits,
        f"{seconds:.1f} ({busy:.1f})",
        faults * inputs,
        differing(verdict),
        f"{sides[0]}, {sides[1]}",
    ]
    print(f"| {' | '.join(map(str, cells))} |", *wrong, sep="\n    ")
    return not wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--inputs", type=int, default=2)
    parser.add_argument("--inside", choices=NETWORKS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        sys.exit(not check(options.inside, options.faults, options.inputs))
    found = ", ".join(f"{name} {metadata.version(name)}" for name in ("keras", "tensorflow", "tf2onnx"))
    print(f"{machine()}, {found}\n{HEADER}\n{'|---' * (HEADER.count('|') - 1)}|", flush=True)
    failed = 0
    for name in options.only:
        given = ["--inside", name, "--faults", str(options.faults), "--inputs", str(options.inputs)]
        command = [sys.executable, "-m", "tests.benchmarks.keras_applications", *given]
        done = subprocess.run(command, capture_output=True, text=True)
        print(done.stdout or f"| {name} | failed |\n{done.stderr[-2000:]}", end="", flush=True)
        failed += bool(done.returncode)
    print(f"{failed} of {len(options.only)} networks failed" if failed else "all passed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
