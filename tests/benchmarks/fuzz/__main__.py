"""Random networks and faults: do our engines and an oracle of plain sessions give the same score bits?

``python -m tests.benchmarks.fuzz --networks N --seed S [--minutes M] [--keep DIR] [--only NUMBER]``. Every network derives
from the seed and its number alone. Ends with 1 if anything differs.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from bitswap_onnx.runtime.verdicts import FOLDER_VARIABLE
from tests.benchmarks.fuzz.outcome import Outcome
from tests.benchmarks.fuzz.report import summary
from tests.benchmarks.fuzz.run import Options, check_network


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first network")
    parser.add_argument("--only", type=int, nargs="+", help="numbers of the networks to run")
    parser.add_argument("--minutes", type=float, help="stop after so long")
    parser.add_argument("--keep", type=Path, help="folder for networks with findings")
    parser.add_argument("--injections", type=int, default=50, help="per network")
    parser.add_argument("--reference-every", type=int, default=4, help="run the reference engine on every n-th network")
    parser.add_argument(
        "--mixing", action=argparse.BooleanOptionalAction, default=True, help="networks whose inputs see each other too"
    )
    parser.add_argument("--quiet", action="store_true", help="print one finding per network")
    return parser.parse_args()


def in_memory() -> str | None:
    """Return a folder that lies in memory, where there is one: a campaign waits for the disk after each file."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def main() -> None:
    arguments = parse()
    os.environ[FOLDER_VARIABLE] = ""  # whatever another run has found
    options = Options(arguments.seed, arguments.injections, arguments.mixing, arguments.reference_every, arguments.keep)
    total, start = Outcome(), time.perf_counter()
    numbers = arguments.only or range(arguments.first, arguments.first + arguments.networks)
    with tempfile.TemporaryDirectory(dir=in_memory()) as folder:
        for number in numbers:
            outcome = check_network(number, options, Path(folder, str(number)))
            total.add(outcome)
            for finding in outcome.findings[: 1 if arguments.quiet else None]:
                print(finding, flush=True)
            if arguments.minutes and time.perf_counter() - start > 60 * arguments.minutes:
                break
    print(summary(total, time.perf_counter() - start))
    sys.exit(bool(total.findings))


if __name__ == "__main__":
    main()
