"""What the reference engine costs per injection, beside what cannot be saved: one session load and one clean pass.

``python tests/benchmarks/reference_overhead.py MODEL.onnx [--inputs N] [--rounds R]``: in each round, in turn, one clean
pass of a loaded session over N inputs, one session load, and one injection through engine and outcomes. Prints the
median of each and the ratio injection / (load + pass); the target is at most 1.15.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

from bitswap_onnx.data.synthetic import synthetic_dataset
from bitswap_onnx.graph.edits import InjectionEdits, WeightEdit
from bitswap_onnx.graph.model import load_model
from bitswap_onnx.graph.signature import model_input, score_output
from bitswap_onnx.graph.targets import find_targets
from bitswap_onnx.outcome import Golden, TopOne, judge_rows
from bitswap_onnx.runtime.reference import ReferenceEngine
from bitswap_onnx.runtime.session import Numerics, open_session


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--inputs", type=int, default=846)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    model, numerics = load_model(options.model), Numerics()
    spec, output = model_input(model), score_output(model)
    inputs = synthetic_dataset(spec.shape, spec.dtype, options.inputs, 0).batch(0, options.inputs)
    session = open_session(model, numerics, output)
    golden = Golden(session.run(inputs), None, TopOne())
    engine = ReferenceEngine(model, numerics, output, inputs, golden.scores)
    kernels = [target.tensor for target in find_targets(model) if target.role == "weight"]
    passes, loads, injections = [], [], []

    def inject(tensor: str) -> None:
        edits = InjectionEdits({tensor: [WeightEdit(0, 1 << 20)]})
        for _, faulty in engine.run((tensor,), [edits], 0, options.inputs):
            judge_rows(golden, faulty.rows, faulty.scores, faulty.bounds)

    for number in range(options.rounds):
        passes.append(seconds(lambda: session.run(inputs)))
        loads.append(seconds(lambda: open_session(model, numerics, output)))
        injections.append(seconds(partial(inject, kernels[number % len(kernels)])))
    ratios = [i / (p + load) for p, load, i in zip(passes, loads, injections, strict=True)]
    print(f"{options.model.name}, {options.inputs} inputs, {options.rounds} rounds, medians in ms:")
    print(
        f"  clean pass {1e3 * median(passes):.1f}, session load {1e3 * median(loads):.1f}, "
        f"injection {1e3 * median(injections):.1f}"
    )
    print(f"  injection / (load + pass): {median(ratios):.3f} (target: at most 1.15)")


if __name__ == "__main__":
    main()
