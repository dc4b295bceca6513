"""How a campaign grows: ResNet20 with its trained weights, 1,000, 4,000 and all 16,627 faults of the published list.

``python -m tests.benchmarks.engine_scaling [--reference FOLDER] [--sizes 1000 4000 16627] [--inputs 846] [--memory 2G]``
runs ``bitswap-onnx inject`` as a process of its own for each size and prints wall time (start to exit), inferences per
second and peak memory (resident set: of the process, of its workers together, pages that they share counted in each, and
what of the workers' is their own), sampled five times a second. For the largest run it then prints, as markdown, its
critical share per layer and per bit beside the published one. ``--out`` keeps the run directories.
"""

import argparse
import csv
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import correlation

from bitswap_onnx.faults.fault_list import write_fault_list
from tests.benchmarks import subjects
from tests.benchmarks.peaks import Peaks, run_watched

SEED = 2026


@dataclass(frozen=True, eq=False)
class Run:
    """A finished campaign."""

    folder: Path
    faults: int
    seconds: float
    peaks: Peaks


def inject(model: Path, size: int, options: argparse.Namespace, folder: Path) -> Run:
    """Run ``size`` faults of the published list as a process; raises CalledProcessError if it fails."""
    faults = subjects.draw(subjects.published_list("ResNet20", options.reference), size, SEED)
    run, listed = folder / f"faults_{len(faults)}", folder / f"faults_{len(faults)}.csv"
    write_fault_list(listed, faults)
    images = [
        "--data",
        str(options.reference / subjects.IMAGES),
        "--preset",
        subjects.PRESET,
        "--first",
        str(options.inputs),
    ]
    given = {"--memory": options.memory, "--workers": options.workers, "--batch-size": options.batch_size}
    extra = [part for name, value in given.items() if value for part in (name, str(value))]
    command = [
        sys.executable,
        "-m",
        "bitswap_onnx",
        "inject",
        str(model),
        str(listed),
        "--out",
        str(run),
        *images,
        *extra,
    ]
    seconds, peaks = run_watched(command, folder / f"faults_{len(faults)}.log")
    return Run(run, len(faults), seconds, peaks)


@dataclass(frozen=True)
class Pair:
    """One fault's shares of critical and of masked inferences: ours and the published ones."""

    layer: str
    bit: int
    critical: tuple[float, float]
    masked: tuple[float, float]


def pairs(run: Path, published: Path) -> list[Pair]:
    with published.open(newline="") as file:
        theirs = {row["Injection"]: row for row in csv.DictReader(file)}
    found = []
    with (run / "results.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            other = theirs[row["Injection"]]
            assert [row[name] for name in ("Layer", "TensorIndex", "Bit")] == [
                other[name] for name in ("Layer", "TensorIndex", "Bit")
            ]
            critical, masked = ((_share(row, name), _share(other, name)) for name in ("critical", "masked"))
            found.append(Pair(row["Layer"], int(row["Bit"]), critical, masked))
    return found


def _share(row: dict[str, str], name: str) -> float:
    return int(row[name]) / sum(int(row[outcome]) for outcome in ("masked", "non_critical", "critical"))


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)


def print_groups(what: str, found: list[Pair], key: Callable[[Pair], object]) -> None:
    """Print the critical share of each group of faults, ours beside the published one."""
    groups: dict[object, list[Pair]] = defaultdict(list)
    for pair in found:
        groups[key(pair)].append(pair)
    print(f"\n| {what} | faults | critical | published | difference (points) |\n|---|---|---|---|---|")
    for name, members in groups.items():
        ours, theirs = (_mean(pair.critical[i] for pair in members) for i in (0, 1))
        print(f"| {name} | {len(members):,} | {ours:.4%} | {theirs:.4%} | {100 * (ours - theirs):+.4f} |")


def print_published(found: list[Pair]) -> None:
    hit = {pair.bit for pair in found if any(pair.critical)}
    print_groups("layer", found, lambda pair: pair.layer)
    order = sorted(found, key=lambda pair: (pair.bit not in hit, -pair.bit))
    print_groups("bit", order, lambda pair: pair.bit if pair.bit in hit else "others")
    print_groups("all", found, lambda pair: "all faults")
    ours, theirs = ([pair.critical[i] for pair in found] for i in (0, 1))
    alike = f"{correlation(ours, theirs):.5f}" if len(set(ours)) > 1 and len(set(theirs)) > 1 else "undefined"
    masked = [_mean(pair.masked[i] for pair in found) for i in (0, 1)]
    print(f"\ncorrelation of the faults' critical shares: {alike}")
    print(f"masked: {masked[0]:.2%}, published {masked[1]:.2%} (its GPU computed in TF32, so that these differ)")


def main() -> None:
    parser = argparse.ArgumentParser()
    subjects.add_reference(parser)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 4000, 16627], help="faults, the list's at most")
    parser.add_argument("--inputs", type=int, default=846)
    parser.add_argument("--memory", help="as inject takes it, e.g. 2G")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--out", type=Path, help="a folder for the run directories; default: a temporary one")
    options = parser.parse_args()
    print(subjects.machine())
    print(f"--memory {options.memory or 'default'}, --workers {options.workers or subjects.cores()}")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
    with nullcontext(options.out) if options.out else tempfile.TemporaryDirectory() as folder:
        model = subjects.make_subject("ResNet20", options.reference, Path(folder)).model
        print(
            "\n| faults | inputs | wall s | inferences per s | ms per inference | peak MB: parent | workers | their own |"
        )
        print("|---|---|---|---|---|---|---|---|", flush=True)
        runs = []
        for size in sorted(options.sizes):
            runs.append(run := inject(model, size, options, Path(folder)))
            inferences = run.faults * options.inputs
            memory = " | ".join(f"{peak / 1e6:.0f}" for peak in (run.peaks.parent, run.peaks.workers, run.peaks.own))
            print(
                f"| {run.faults:,} | {options.inputs} | {run.seconds:.1f} | {inferences / run.seconds:,.0f} | "
                f"{1e3 * run.seconds / inferences:.4f} | {memory} |",
                flush=True,
            )
        print_published(pairs(runs[-1].folder, subjects.published_list("ResNet20", options.reference)))


if __name__ == "__main__":
    main()
