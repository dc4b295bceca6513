"""``python -m tests.benchmarks.mutations [--lists N] [--models N] [--data N] [--seed S] [--from K]``."""

import argparse
import resource
import tempfile
import time
from pathlib import Path

from tests.benchmarks.mutations.cases import Tally, run_case
from tests.benchmarks.mutations.data import make_data
from tests.benchmarks.mutations.lists import make_list
from tests.benchmarks.mutations.models import make_model

MAKERS = {"lists": make_list, "models": make_model, "data": make_data}
#: Bytes that a case may take beside those of the process.
MEMORY = 3 << 30


def run_cases(kind: str, seed: int, numbers: range, folder: Path) -> Tally:
    """Run cases of a kind, each in a folder of its own below ``folder``."""
    tally = Tally()
    for number in numbers:
        with tempfile.TemporaryDirectory(dir=folder) as own:
            (folder / own / "case").mkdir()
            run_case(MAKERS[kind], list(MAKERS).index(kind), seed, number, Path(own) / "case", tally)
    return tally


def main() -> None:
    """Run all cases and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    for kind, number in (("lists", 10_000), ("models", 10_000), ("data", 5_000)):
        parser.add_argument(f"--{kind}", type=int, default=number)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--from", type=int, default=0, dest="first", help="number of the first case")
    given = vars(parser.parse_args())
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    with tempfile.TemporaryDirectory() as folder:
        for kind in MAKERS:
            begun = time.perf_counter()
            numbers = range(given["first"], given["first"] + given[kind])
            tally = run_cases(kind, given["seed"], numbers, Path(folder))
            ends = ", ".join(f"{name} {number:,}" for name, number in tally.outcomes.most_common())
            seconds = time.perf_counter() - begun
            print(
                f"{kind}: {len(numbers):,} cases in {seconds:.0f} s: {ends}; {len(tally.failures)} failures", flush=True
            )
            for failure in tally.failures[:40]:
                print("  case {}: {}: {}".format(*failure), flush=True)


if __name__ == "__main__":
    main()
