"""How long a command line takes before it computes: help screens, the version, usage errors, an ordinary error.

``python -m tests.benchmarks.command_start [--runs 5] [--most 0.4]``. CPU seconds (user and system) of a whole process, the
median of several runs. Exits with 1 if one takes more than ``--most``.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

from bitswap_onnx.cli.commands import COMMANDS, load_command

#: What goes wrong → the command line.
ERRORS = {
    "no such command": "injekt",
    "no such option": "inject model.onnx faults.csv --outt run",
    "missing argument": "inject",
    "missing option": "sweep model.onnx",
    "a bad choice": "inject model.onnx faults.csv --fusion none",
    "a bad number": "inject model.onnx faults.csv --workers x",
    "an error line that names an option": "inject model.onnx faults.csv --resume",
    "a file that is missing": "inject gone.onnx faults.csv",
}


def every_command() -> Iterator[str]:
    """Yield every command and subcommand as it is typed."""
    for name in COMMANDS:
        yield name
        yield from (f"{name} {sub}" for sub in getattr(load_command(name), "commands", {}))


def cpu_seconds(line: str, folder: str, runs: int) -> float:
    """Return the median of the CPU seconds that a command line takes."""
    seconds = []
    for _ in range(runs):
        before = getrusage(RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "bitswap_onnx", *line.split()]
        subprocess.run(command, cwd=folder, capture_output=True, check=False)
        after = getrusage(RUSAGE_CHILDREN)
        seconds.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return statistics.median(seconds)


def main() -> int:
    """Measure every command line; print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--most", type=float, default=0.4)
    options = parser.parse_args()
    lines = ["--version", "--help", *(f"{command} --help" for command in every_command()), *ERRORS.values()]
    slow = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in ("model.onnx", "faults.csv"):
            Path(folder, name).touch()
        for line in lines:
            seconds = cpu_seconds(line, folder, options.runs)
            slow += seconds > options.most
            print(f"{seconds:6.2f} s{' (slow)' if seconds > options.most else ''}  bitswap-onnx {line}")
    print(f"{len(lines) - slow} of {len(lines)} within {options.most:g} s of CPU time")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
