"""Campaigns of ImageNet's size in bounded memory: the peak of all processes together.

``python -m tests.benchmarks.large_networks [--memory 3G] [--only ResNet50] [--faults 200] [--inputs 64]`` needs torchvision,
and a system with /proc. The networks have random weights, the images are random. The memory of a process is its resident
set; what several processes map counts several times.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from bitswap_onnx.faults.fault_list import read_fault_list, write_fault_list
from tests.benchmarks import subjects
from tests.benchmarks.peaks import run_watched

COLUMNS = ("network", "faults", "inputs", "`--memory`", "peak GiB: all", "parent", "workers", "wall s", "said")


def measure(name: str, options: argparse.Namespace, folder: Path) -> tuple[str, ...]:
    """Run one campaign; return its row."""
    subject, listed, log = subjects.make_large_subject(name, folder), folder / "faults.csv", folder / "log"
    write_fault_list(listed, list(read_fault_list(subject.faults))[: options.faults])
    given = {"--data": f"synthetic:{options.inputs}", "--memory": options.memory, "--out": folder / "run"}
    extra = [str(part) for pair in given.items() for part in pair]
    command = [sys.executable, "-m", "bitswap_onnx", "inject", str(subject.model), str(listed), *extra]
    seconds, peaks = run_watched(command, log)
    said = [line for line in log.read_text().splitlines() if line.startswith(("workers:", "warning:", "batches of"))]
    sizes = (f"{size / 2**30:.2f}" for size in (peaks.together, peaks.parent, peaks.workers))
    return name, str(options.faults), str(options.inputs), options.memory, *sizes, f"{seconds:.0f}", "; ".join(said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", default="3G")
    parser.add_argument("--only", nargs="+", choices=[*subjects.LARGE], default=[*subjects.LARGE])
    parser.add_argument("--faults", type=int, default=subjects.LARGE_LIST)
    parser.add_argument("--inputs", type=int, default=64)
    options = parser.parse_args()
    print(f"{subjects.machine()}\n\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            print(f"| {' | '.join(measure(name, options, Path(folder)))} |", flush=True)


if __name__ == "__main__":
    main()
