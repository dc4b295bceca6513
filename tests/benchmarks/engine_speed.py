"""The default campaign against an eager PyTorch loop, in one run: how many times faster is an inference?

``python -m tests.benchmarks.engine_speed [--reference FOLDER] [--only ResNet20]``: for ResNet20 (trained weights, 2 % of
its published list × 846 CIFAR-10 images), Vgg11_bn (random weights, its whole list × 64) and MobileNetV2, GoogLeNet and
DenseNet121 (random weights, 100 faults of their lists × 64) it prints one row each. Ours is the wall time of `run_campaign`
with default settings, everything included: preparing, golden run, controls, audit, files. The loop flips the bit in the
parameter, runs all images (one process, 2 threads, batch 256, no gradients), compares the predictions with the clean ones
and flips the bit back; it is timed fault by fault, half of them before our campaign and half behind it, and the median
counts. The reference engine's time is what its workers take per inference, null controls counted, without their start.
Critical counts are compared with the loop's and the reference engine's, fault by fault.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray

from bitswap_onnx.campaign.options import Audit
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.faults.fault import Injection
from bitswap_onnx.faults.fault_list import read_fault_list
from tests.benchmarks import subjects

SEED = 2026


@dataclass(frozen=True)
class Case:
    """How much of a network's list runs over how many inputs (None: all), and how many faults the loop is timed on."""

    name: str
    share: float = 1.0
    faults: int | None = None
    inputs: int = 64
    torch_faults: int | None = 20


CASES = (
    Case("ResNet20", share=0.02, inputs=846, torch_faults=None),
    Case("Vgg11_bn"),
    Case("MobileNetV2", faults=100),
    Case("GoogLeNet", faults=100),
    Case("DenseNet121", faults=100),
)

COLUMNS = (
    *("network", "weights", "faults", "inputs", "layout", "wall s", "ours ms", "torch ms", "torch / ours"),
    *("reference ms", "reference / ours", "criticals differ"),
)


class Loop:
    """What injectors for PyTorch do: one process, one fault after the other, the whole test set each time."""

    def __init__(self, network: torch.nn.Module, inputs: NDArray[np.float32], batch: int) -> None:
        self.network = network
        self.inputs = torch.from_numpy(inputs)
        self.batch = batch
        self.clean = self.predictions()

    @torch.no_grad()
    def predictions(self) -> NDArray[np.int64]:
        firsts = range(0, len(self.inputs), self.batch)
        parts = [self.network(self.inputs[first : first + self.batch]).numpy() for first in firsts]
        return np.asarray(np.argmax(np.concatenate(parts), axis=1))  # NaN first

    def critical(self, injection: Injection) -> int:
        (fault,) = injection.faults
        bits = self.network.get_parameter(f"{fault.layer}.weight").detach().numpy().view(np.uint32)
        mask = np.uint32(1 << (fault.bit or 0))
        bits[fault.index] ^= mask
        count = int(np.sum(self.predictions() != self.clean))
        bits[fault.index] ^= mask
        return count

    def run(self, injections: Sequence[Injection]) -> tuple[dict[str, int], list[float]]:
        """Return the critical count of each injection, and the seconds that each took."""
        counts, seconds = {}, []
        for injection in injections:
            start = time.perf_counter()
            counts[injection.id] = self.critical(injection)
            seconds.append(time.perf_counter() - start)
        return counts, seconds


def measure(case: Case, options: argparse.Namespace, folder: Path) -> None:
    subject = subjects.make_subject(case.name, options.reference, folder)
    listed = sum(1 for _ in read_fault_list(subject.faults))
    wanted = options.faults or case.faults or round(case.share * listed)
    faults = subjects.draw(subject.faults, wanted, SEED)
    settings = subjects.image_settings(options.reference, options.inputs or case.inputs)
    dataset = prepare(subject.model, settings).dataset
    inputs = len(dataset)
    timed = subjects.draw(faults, options.torch_faults or case.torch_faults or len(faults), SEED)
    random.Random(SEED).shuffle(timed)
    again = subjects.draw(faults, options.reference_faults, SEED + 1)

    loop = Loop(subject.network, np.asarray(dataset.batch(0, inputs), np.float32), options.torch_batch)
    loop.run(timed[:1])
    counts, before = loop.run(timed[: (len(timed) + 1) // 2])
    settings = replace(settings, batch_size=options.batch_size)
    ours = subjects.campaign(subject.model, faults, folder / "ours", settings, workers=options.workers)
    rest, behind = loop.run(timed[(len(timed) + 1) // 2 :])
    native = {**counts, **rest}
    assert np.array_equal(loop.predictions(), loop.clean), "the loop left a fault behind"
    whole = subjects.campaign(
        subject.model,
        again,
        folder / "reference",
        settings,
        engine="reference",
        workers=options.workers,
        audit=Audit(0),
    )

    found = ours.critical()
    unlike = sum(found[name] != count for name, count in whole.critical().items())
    workers = options.workers or subjects.cores()
    own = ours.seconds / (len(faults) * inputs)
    eager = median([*before, *behind]) / inputs
    reference = whole.seconds_per_inference() / workers
    differing = sum(found[name] != count for name, count in native.items())
    row = (
        *(subject.name, subject.weights, f"{len(faults):,}", str(inputs), ours.layout),
        *(f"{ours.seconds:.1f}", f"{1e3 * own:.4f}", f"{1e3 * eager:.4f}", f"{eager / own:.1f}"),
        *(f"{1e3 * reference:.4f}", f"{reference / own:.1f}", f"{differing} of {len(native)}"),
    )
    print(f"| {' | '.join(row)} |", flush=True)
    halves = ", ".join(f"{1e3 * median(part) / inputs:.4f}" for part in (before, behind) if part)
    print(
        f"  {subject.name}: torch over {len(timed)} faults, medians of each half {halves} ms; reference over {len(again)} "
        f"faults on {workers} workers, criticals differ in {unlike}; faulty paths by lane: "
        f"{ours.lanes}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    subjects.add_reference(parser)
    parser.add_argument("--only", nargs="+", choices=[case.name for case in CASES])
    parser.add_argument("--faults", type=int, help="of each list, in place of each case's own number")
    parser.add_argument("--inputs", type=int, help="in place of each case's own number")
    parser.add_argument("--torch-faults", type=int, help="that the loop is timed on; default: all of ResNet20, else 20")
    parser.add_argument("--reference-faults", type=int, default=20)
    parser.add_argument("--batch-size", type=int, help="of our campaigns; default: theirs")
    parser.add_argument("--workers", type=int, help="of our campaigns; default: one per core")
    parser.add_argument("--torch-batch", type=int, default=256)
    parser.add_argument("--torch-threads", type=int, default=2)
    options = parser.parse_args()
    print(subjects.machine())
    print(f"times per inference; torch: {options.torch_threads} threads, batch {options.torch_batch}")
    print(f"\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    for case in CASES:
        if options.only is None or case.name in options.only:
            torch.set_num_threads(options.torch_threads)
            with tempfile.TemporaryDirectory() as folder:
                measure(case, options, Path(folder))


if __name__ == "__main__":
    main()
