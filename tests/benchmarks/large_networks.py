"""Campaigns of ImageNet's size in bounded memory: the peak of all processes together.

``python -m tests.benchmarks.large_networks [--memory 3G] [--only ResNet50] [--faults 200] [--inputs 64]`` needs torchvision,
and a system with /proc. The networks have random weights, the images are random. The memory of a process is its resident
set; what several processes map counts several times.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bitswap_onnx.faults.fault_list import read_fault_list, write_fault_list
from tests.benchmarks import subjects

#: Seconds between two looks at the processes.
_PERIOD = 0.05


def processes(pid: int) -> Iterator[int]:
    """Yield a process and all that it has started."""
    yield pid
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from processes(int(child))
    except OSError:  # it has ended
        return


def resident(pid: int) -> int:
    """Return the bytes of a process in memory."""
    try:
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def run(command: list[str]) -> tuple[float, int, list[int], str]:
    """Return the seconds of a command, the peak of all its processes together, that of each, and what it printed."""
    start, peak, each = time.perf_counter(), 0, dict[int, int]()
    with tempfile.TemporaryFile("w+") as printed:
        process = subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT, text=True)
        while process.poll() is None:
            now = {pid: resident(pid) for pid in set(processes(process.pid))}
            peak = max(peak, sum(now.values()))
            each |= {pid: max(each.get(pid, 0), size) for pid, size in now.items()}
            time.sleep(_PERIOD)
        printed.seek(0)
        text = printed.read()
    if process.returncode:
        sys.exit(text)
    return time.perf_counter() - start, peak, sorted(each.values(), reverse=True), text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", default="3G")
    parser.add_argument("--only", nargs="+", choices=[*subjects.LARGE], default=[*subjects.LARGE])
    parser.add_argument("--faults", type=int, default=subjects.LARGE_LIST)
    parser.add_argument("--inputs", type=int, default=64)
    options = parser.parse_args()
    print(subjects.machine(), "\n")
    print(
        "| network | faults | inputs | `--memory` | peak, GiB | of each process, GiB | wall s | said |\n|" + "---|" * 8
    )
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            subject = subjects.make_large_subject(name, Path(folder))
            listed = Path(folder, "faults.csv")
            write_fault_list(listed, list(read_fault_list(subject.faults))[: options.faults])
            given = {"--first": options.inputs, "--memory": options.memory, "--out": Path(folder, "run")}
            command = [
                "inject",
                str(subject.model),
                str(listed),
                *(str(part) for pair in given.items() for part in pair),
            ]
            seconds, peak, each, text = run([sys.executable, "-m", "bitswap_onnx", *command])
        said = "; ".join(line for line in text.splitlines() if line.startswith(("workers:", "warning:")))
        sizes = ", ".join(f"{size / 2**30:.2f}" for size in each)
        cells = (
            name,
            options.faults,
            options.inputs,
            options.memory,
            f"{peak / 2**30:.2f}",
            sizes,
            f"{seconds:.0f}",
            said,
        )
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
