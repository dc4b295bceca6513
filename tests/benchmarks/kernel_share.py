"""Where the time of a campaign goes, and what its kernels make of the processor.

``python -m tests.benchmarks.kernel_share [--reference FOLDER] [--only ResNet20] [--faults 333] [--inputs 846]`` runs a
campaign with default options in this process, on one thread, and prints two tables. The first one has the seconds of each
span of the stopwatch (`bitswap_onnx.runtime.stopwatch`), those of them that ONNX Runtime runs sessions, and that share. The
second one has the clean model in batches as the campaign runs it: the share of a run that the runtime's own profile counts
as kernels, their floating-point operations per second (counted by PyTorch), and the highest rate that a product of two large
matrices reaches in the same runtime on the same thread.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
import onnx
import torch
from onnx import helper
from torch.utils.flop_counter import FlopCounterMode

from bitswap_onnx.campaign.setup import Setup, prepare
from bitswap_onnx.graph.model import Model, from_proto
from bitswap_onnx.runtime import session
from bitswap_onnx.runtime.session import Numerics, Session, open_session
from bitswap_onnx.runtime.stopwatch import STOPWATCH
from bitswap_onnx.runtime.submodel import Submodel
from tests.benchmarks import subjects

SEED = 2026
#: Rows and columns of the matrices, batches that are profiled, and rounds of each timing.
SIZE, BATCHES, ROUNDS = 1024, 20, 15


@contextmanager
def counted_runs() -> Iterator[defaultdict[str, float]]:
    """Give the seconds in which sessions run, by the span of the stopwatch around them (none: the clean run)."""
    seconds: defaultdict[str, float] = defaultdict(float)

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*arguments)
            finally:
                span = STOPWATCH._open[-1] if STOPWATCH._open else "clean run"
                seconds[span] += time.perf_counter() - start

        return run

    with ExitStack() as patches:
        for owner, name in ((Submodel, "values"), (Submodel, "run_into"), (Session, "_run_batch")):
            patches.enter_context(mock.patch.object(owner, name, timed(getattr(owner, name))))
        yield seconds


def show_spans(name: str, subject: subjects.Subject, options: argparse.Namespace, folder: Path) -> Setup:
    """Run the campaign and print where its time went."""
    settings = subjects.image_settings(options.reference, options.inputs)
    faults = subjects.draw(subject.faults, options.faults, SEED)
    setup = prepare(subject.model, settings)
    assert (
        setup.numerics
    )  # which has searched for the layout, and keeps it: the search belongs to no campaign in particular
    with counted_runs() as in_runtime:
        ran = subjects.campaign(subject.model, faults, folder / "run", settings, workers=0)
    spans: dict[str, float] = ran.golden["seconds"]
    spans = {"faults, audit, start": sum(spans.pop(name) for name in ("faults", "audit", "start")), **spans}
    in_runtime["faults, audit, start"] = in_runtime.pop("faults")  # the audit runs faults too
    rest = ran.seconds - sum(spans.values())
    print(f"\n{name}, {len(faults)} faults x {options.inputs} inputs, {ran.seconds:.1f} s, {ran.layout} layout\n")
    print("| span | s | share of the campaign | in ONNX Runtime s | share of the span |\n|---|---|---|---|---|")
    for span, total in (*spans.items(), ("clean run, list, files", rest), ("all", ran.seconds)):
        inside = sum(in_runtime.values()) if span == "all" else in_runtime[span if span in spans else "clean run"]
        share = f"{inside / total:.0%}" if total else ""
        print(f"| {span} | {total:.2f} | {total / ran.seconds:.0%} | {inside:.2f} | {share} |")
    return setup


def profiled_share(model: Model, numerics: Numerics, output: str, batch: np.ndarray[Any, Any]) -> float:
    """Return the share of a run that the runtime's profile counts as kernels."""
    made = session._options

    def profiling(numerics: Numerics) -> Any:
        options = made(numerics)
        options.enable_profiling, options.profile_file_prefix = True, f"{folder}/profile"
        return options

    with tempfile.TemporaryDirectory() as folder:
        with mock.patch.object(session, "_options", profiling):
            loaded = open_session(model, numerics, output)
        for _ in range(BATCHES):
            loaded.run(batch)
        events = json.loads(Path(loaded.handle.end_profiling()).read_text())
    kernels = sum(event["dur"] for event in events if event["name"].endswith("_kernel_time"))
    return float(kernels / sum(event["dur"] for event in events if event["name"] == "model_run"))


def seconds(call: Callable[[], object]) -> float:
    """Return the median time of a call."""
    call()
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return median(times)


def peak_rate() -> float:
    """Return the operations per second of a product of two square matrices."""
    value = helper.make_tensor_value_info
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    draw = np.random.default_rng(0)
    weights = onnx.numpy_helper.from_array(draw.standard_normal((SIZE, SIZE)).astype(np.float32), "w")
    graph = helper.make_graph(
        [node], "product", [value("x", 1, [SIZE, SIZE])], [value("y", 1, [SIZE, SIZE])], [weights]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    loaded = open_session(from_proto(model), Numerics(batch_size=SIZE), "y")
    x = draw.standard_normal((SIZE, SIZE)).astype(np.float32)
    return 2 * SIZE**3 / seconds(lambda: loaded.run(x))


def show_kernels(subject: subjects.Subject, setup: Setup) -> None:
    """Print what the kernels of the clean model make of one thread."""
    numerics = setup.numerics
    batch = np.asarray(setup.dataset.batch(0, numerics.batch_size), np.float32)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        subject.network(torch.from_numpy(batch))
    share = profiled_share(setup.model, numerics, setup.output, batch)
    loaded = open_session(setup.model, numerics, setup.output)
    run, peak = seconds(lambda: loaded.run(batch)), peak_rate()
    rate = counter.get_total_flops() / (run * share)
    print("\n| clean model, ms per input | in kernels | GFLOP/s there | matrix product GFLOP/s | ratio |")
    print("|---|---|---|---|---|")
    print(f"| {1e3 * run / len(batch):.3f} | {share:.0%} | {rate / 1e9:.0f} | {peak / 1e9:.0f} | {rate / peak:.0%} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    subjects.add_reference(parser)
    parser.add_argument("--only", default="ResNet20", help="the network")
    parser.add_argument("--faults", type=int, default=333)
    parser.add_argument("--inputs", type=int, default=846)
    options = parser.parse_args()
    print(subjects.machine())
    with tempfile.TemporaryDirectory() as folder:
        subject = subjects.make_subject(options.only, options.reference, Path(folder))
        show_kernels(subject, show_spans(options.only, subject, options, Path(folder)))


if __name__ == "__main__":
    main()
