"""Small Keras models of every kind of layer: are weights stored bit for bit, and do faults decide as in Keras?

``python -m tests.benchmarks.keras_models [--only NAME ...] [--faults 100] [--inputs 32]``. The models of
`tests.keras_models` are exported, and every float32 variable is compared with its initializer. Then random flips of weights
run in the file, as a campaign, and in Keras, where they are assigned to the variables: once with the model called directly,
as ``crosscheck`` does, and once with its ``predict``. TensorFlow rewrites the graph of ``predict``, so that a NaN becomes 0
in a fused Relu and sums overflow elsewhere; the direct call computes the model as it is written.

It prints one row per model: parameters, inferences with a fault, decisions that differ from the direct call (near ties, and
with NaN or Inf, in brackets), those that differ from ``predict``, and critical inferences on both sides. It ends with 1 if a
variable differs, or if the direct call does not pass the rule of ``crosscheck``.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from bitswap_onnx.converters.keras_to_onnx import export_keras
from bitswap_onnx.errors import BitswapError
from bitswap_onnx.experiments.crosscheck.run import Verdict
from bitswap_onnx.graph.model import load_model
from tests.benchmarks.subjects import machine
from tests.keras_faults import drawn_faults, verdicts
from tests.keras_models import MODELS, built, inputs_for

HEADER = (
    "| model | parameters | bits | inferences | differ from Keras (ties, NaN) | from predict (ties, NaN) | critical |"
)


def check(name: str, faults: int, inputs: int) -> tuple[str, list[str]]:
    """Return the row of a model, and what is wrong with it."""
    model, wrong = built(name), []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        report = export_keras(model, path)
        different = changed(model, path, report.unused)
        wrong += [f"{name}: {variable} is not stored bit for bit" for variable in different]
        injections = drawn_faults(load_model(path), faults, seed=3)
        found = verdicts(path, model, inputs_for(model, inputs), injections)
    try:
        found[0].check()
    except BitswapError as error:
        wrong.append(f"{name}: {error}")
    bits = "equal" if not different else f"{len(different)} differ"
    direct, predict = ("-", differing(found[0])) if len(found) == 1 else map(differing, found)
    sides = [sum(side["critical"] or 0 for side in pair) for pair in critical(found[0])]
    cells = [name, len(report.parameters), bits, faults * inputs, direct, predict, " = ".join(map(str, sides))]
    if sides[0] != sides[1]:
        cells[-1] = f"{sides[0]} here, {sides[1]} in Keras"
    return f"| {' | '.join(map(str, cells))} |", wrong


def changed(model: Any, path: Path, unused: tuple[str, ...]) -> list[str]:
    """The float32 variables that inference needs and whose bits are not in the file."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    native = {v.path: np.asarray(v.value) for v in model.variables if v.dtype == "float32" and v.path not in unused}
    return [
        name
        for name, values in native.items()
        if name not in stored or stored[name].shape != values.shape or stored[name].tobytes() != values.tobytes()
    ]


def differing(verdict: Verdict) -> str:
    """Decisions that differ, with those in near ties and those with NaN or Inf in brackets."""
    ties = sum(row.near_ties for row in verdict.injections)
    nonfinite = sum(row.nonfinite_differing for row in verdict.injections)
    return f"{verdict.unexplained + ties + nonfinite} ({ties}, {nonfinite})"


def critical(verdict: Verdict) -> tuple[list[Any], list[Any]]:
    """The counts of each injection, in the file and in Keras."""
    return [row.runtime for row in verdict.injections], [row.native for row in verdict.injections]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--inputs", type=int, default=32)
    options = parser.parse_args()
    print(f"{machine()}\n{HEADER}\n{'|---' * (HEADER.count('|') - 1)}|", flush=True)
    wrong: list[str] = []
    for name in options.only:
        row, found = check(name, options.faults, options.inputs)
        wrong += found
        print(row, *found, sep="\n", flush=True)
    print(f"{len(wrong)} of {len(options.only)} models disagree" if wrong else "all agree")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
