"""Every bit of every weight of the shipped digits model, run once; then all samplers and intervals against that census.

``python -m tests.benchmarks.census [--run DIR] [--samples 1000] [--all]`` runs the exhaustive list (flips, all stored
parameters) over all inputs and keeps the outcome of every inference, in DIR if given, with the list and its design beside
it; what DIR has of that census already is not run again. Then it draws lists of every scheme of ``faults generate`` with
the seeds 0, 1, 2, ..., looks their faults up in the census and estimates, with the strata of the design, the critical and
the masked share and the share of faults with any critical input: of the network, of the first layer and of the highest
exponent bit. The table has the network's critical share and the worst of the nine; ``--all`` prints all nine.

Lists are the sampler's: images of `permute`, compared for two seeds with the faults that iterating the `Sample` gives.
Stuck_at faults and several faults per injection have no census here. Exits with 1 if intervals cover less than their level
less three Monte Carlo standard errors, if a mean estimate is four of its own off what the census expects of it, if standard
errors over 30 faults or more are more than 5 % off and four Monte Carlo standard errors, if faults are not drawn equally
often (p < 1e-4), or if a list of everything is not exact.

Columns, in %: lists whose interval ``covers`` the truth, lies ``above`` or ``below`` it; mean ``width``. The others are of
lists with as many faults of the group as `estimate` wants for a mean. sd: an estimate's true standard deviation, from the
census, for what each list drew of each stratum (root mean square). ``bias``: mean estimate less truth, in sd: chance, and
strata of which a list has no fault of the group; ``z``: without the latter, in Monte Carlo standard errors, sd / sqrt(n).
``SE``: root mean square of the standard errors, in sd; ``seen``: of the estimates' distances to what the census expects, in
sd. ``drawn p``: that of a two-sided chi-square test of equal inclusion.
"""

import argparse
import math
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bitswap_onnx.sampling.request import SamplingRequest
from bitswap_onnx.stats.stratified import Bounded, Estimate, weigh, weighted_mean
from tests.census import ALL, QUANTITIES, Census, Given, Lists, plan_lists, take_census

LEVELS = (0.99, 0.95)
#: Expected draws of a cell of the chi-square test; lists that a bias is told from, and faults that a spread is.
CELL, ENOUGH = 5, 30
#: How far off standard errors may be.
OFF = 0.05
#: Lists of more faults or more strata take long: there are a fifth as many of them.
MANY_FAULTS, MANY_STRATA = 50_000, 100

EVERYTHING = SamplingRequest("exhaustive", parameters=ALL)
#: Lists that are small, middling and large parts of what they are drawn from.
CASES = {
    "network, e 10 %, 95 %": SamplingRequest("network", margin=0.1, confidence=0.95),
    "network, e 5 %": SamplingRequest("network", margin=0.05),
    "network, e 1 %": SamplingRequest("network"),
    "network, e 0.2 %": SamplingRequest("network", margin=0.002),
    "network, all parameters, e 2 %": SamplingRequest("network", margin=0.02, parameters=ALL),
    "network, exponent, e 2 %, ceil": SamplingRequest("network", margin=0.02, rounding="ceil", bits="exponent"),
    "layer, e 5 %, t 2.58, stuck_at": SamplingRequest(
        "layer", margin=0.05, t=2.58, population="stuck_at", rounding="ceil"
    ),
    "layer, e 1 %": SamplingRequest("layer"),
    "layer, all parameters, e 5 %": SamplingRequest("layer", margin=0.05, parameters=ALL),
    "layer, conv1,linear, bits 23-31": SamplingRequest("layer", margin=0.02, layers="conv1,linear", bits="23-31"),
    "bit-layer, e 10 %, 95 %": SamplingRequest("bit-layer", margin=0.1, confidence=0.95),
    "bit-layer, e 1 %": SamplingRequest("bit-layer"),
    "data-aware, e 5 %": SamplingRequest("data-aware", margin=0.05),
    "data-aware, e 1 %": SamplingRequest("data-aware"),
    "data-aware, all parameters, e 5 %": SamplingRequest("data-aware", margin=0.05, parameters=ALL),
    "per-target, 20": SamplingRequest("per-target", number=20),
    "per-target, 1000": SamplingRequest("per-target", number=1000),
    "per-target, all parameters, 200": SamplingRequest("per-target", number=200, parameters=ALL),
}
#: Lists that hold all there is.
WHOLE = {
    "exhaustive": SamplingRequest("exhaustive"),
    "exhaustive, all parameters": EVERYTHING,
    "exhaustive, conv2, exponent": SamplingRequest("exhaustive", layers="conv2", bits="exponent"),
    "network, e 1e-9": SamplingRequest("network", margin=1e-9),
    "layer, all parameters, e 1e-9": SamplingRequest("layer", margin=1e-9, parameters=ALL),
    "bit-layer, all parameters, e 1e-9": SamplingRequest("bit-layer", margin=1e-9, parameters=ALL),
    "per-target, all parameters, 1e9": SamplingRequest("per-target", number=10**9, parameters=ALL),
}


class Limits(NamedTuple):
    """Of one level: shares of lists whose interval holds the truth, lies above and below it; mean width."""

    covers: float
    above: float
    below: float
    width: float


@dataclass(frozen=True)
class Row:
    """One quantity of one group over ``lists`` with a fault of it, ``telling`` of them with enough; see the columns.

    ``truth``: the mean. ``faults``: of the group in a telling list, on average. ``bias``, ``z``, ``se`` and ``seen`` are 0
    where there is no deviation, or where too few lists tell. ``chance``: the Monte Carlo standard error of ``se`` squared.
    """

    group: str
    quantity: str
    truth: float
    lists: int
    telling: int
    limits: dict[float, Limits]
    faults: float = 0.0
    bias: float = 0.0
    z: float = 0.0
    se: float = 0.0
    seen: float = 0.0
    chance: float = 0.0

    @property
    def wrong(self) -> Iterator[str]:
        """Say what is not as it should be."""
        for level, (covers, *_) in self.limits.items():
            if covers < level - 3 * math.sqrt(level * (1 - level) / self.lists):
                yield f"{self.group}, {self.quantity}: {100 * level:g} % intervals cover {100 * covers:.2f} %"
        if abs(self.z) > 4:
            yield f"{self.group}, {self.quantity}: a bias of {self.z:.1f} of its standard errors"
        low, high = ((1 + side * OFF) ** 2 + side * 4 * self.chance for side in (-1, 1))
        if self.se and self.faults >= ENOUGH and not low <= self.se**2 <= high:
            yield f"{self.group}, {self.quantity}: standard errors of {self.se:.3f} standard deviations"


class Found(NamedTuple):
    """What one list says of a quantity of a group of so many ``faults``; ``telling``: of enough."""

    telling: bool
    faults: int
    estimates: list[Estimate]
    given: Given


def measure(lists: Lists, seeds: int, levels: Sequence[float] = LEVELS) -> tuple[list[Row], float]:
    """Estimate from the lists of ``seeds`` seeds; return a row per group and quantity, and the p of equal inclusion."""
    frame, strata = lists.frame, len(lists.tables)
    groups = {name: (mask, lists.held(mask)) for name, mask in lists.groups.items()}
    truths = {(g, q): lists.truth(mask, q) for g, (mask, _) in groups.items() for q in QUANTITIES}
    drawn = np.zeros(len(lists.census.layers), np.int64)
    found: dict[tuple[str, str], list[Found]] = {key: [] for key in truths}
    for seed in range(seeds):
        positions = lists.positions(seed)
        drawn += np.bincount(positions, minlength=len(drawn))
        for group, (mask, held) in groups.items():
            member = np.flatnonzero(mask[positions])
            if not len(member):
                continue
            weights, own = weigh(frame, member, held), np.bincount(frame.stratum[member], minlength=strata)
            telling = not weights.too_few(LEVELS[0])
            for quantity in QUANTITIES:
                values = Bounded(lists.census.shares[quantity][positions])
                estimates = [weighted_mean(weights, values, level) for level in levels]
                given = truths[group, quantity].given(own.astype(np.float64))
                found[group, quantity].append(Found(telling, len(member), estimates, given))
    rows = [_row(*key, truths[key].mean, levels, some) for key, some in found.items() if some]
    return rows, inclusion(lists, drawn, seeds)


def _row(group: str, quantity: str, truth: float, levels: Sequence[float], found: list[Found]) -> Row:
    limits = {}
    for number, level in enumerate(levels):
        low, high = (np.array([getattr(one.estimates[number], end) for one in found]) for end in ("low", "high"))
        above, below = float((low > truth + 1e-12).mean()), float((high < truth - 1e-12).mean())
        limits[level] = Limits(1 - above - below, above, below, float((high - low).mean()))
    telling = [one for one in found if one.telling]
    row = Row(group, quantity, truth, len(found), len(telling), limits)
    if len(telling) < ENOUGH:
        return row
    means, errors = np.array([(one.estimates[0].mean, one.estimates[0].se) for one in telling]).T
    expected, variances, spreads = np.array([one.given for one in telling]).T
    if not variances.any():
        assert (np.abs(means - expected) < 1e-12).all()
        return row
    sd, scatter = math.sqrt(variances.mean()), means - expected
    return replace(
        row,
        faults=float(np.mean([one.faults for one in telling])),
        bias=float(means.mean() - truth) / sd,
        z=float(scatter.mean()) / sd * math.sqrt(len(means)),
        se=math.sqrt((errors**2).mean()) / sd,
        seen=math.sqrt((scatter**2).mean()) / sd,
        chance=math.sqrt(spreads.mean() / len(means)) / sd**2,
    )


def inclusion(lists: Lists, drawn: NDArray[np.int64], seeds: int) -> float:
    """Return the two-sided p of ``drawn`` (faults of the census,) if every fault of a stratum is as likely as another.

    Neighbours are joined to cells of `CELL` expected draws. Draws without replacement vary less than chi-square's, by
    (N - n) / (N - 1) in all cells alike.
    """
    statistic, freedom = 0.0, 0
    for size, table in zip(lists.sample.sizes, lists.tables, strict=True):
        if size == len(table):
            assert (drawn[table] == seeds).all()
            continue
        cells = np.array_split(drawn[table], max(1, min(len(table), seeds * size // CELL)))
        counts, members = np.array([cell.sum() for cell in cells]), np.array([len(cell) for cell in cells])
        expected = seeds * size * members / len(table)
        statistic += ((counts - expected) ** 2 / expected).sum() * (len(table) - 1) / (len(table) - size)
        freedom += len(cells) - 1
    return min(1.0, 2 * float(min(stats.chi2.sf(statistic, freedom), stats.chi2.cdf(statistic, freedom))))


def run_case(census: Census, samples: int, every: bool, name: str) -> tuple[list[str], list[str]]:
    """Return a case's line, followed by one for each of its rows if ``every``; and what is wrong."""
    lists = plan_lists(census, CASES[name])
    same = all((lists.positions(seed) == lists.sampled(seed)).all() for seed in range(2))
    large = lists.size > MANY_FAULTS or len(lists.tables) > MANY_STRATA
    rows, drawn = measure(lists, samples // 5 if large else samples)
    wrong = [fault for row in rows for fault in row.wrong] + ([] if same else ["not the sampler's list"])
    wrong += [f"faults are not drawn equally often, p = {drawn:.2g}"] if drawn < 1e-4 else []
    worst = "".join(f"{100 * min(row.limits[level].covers for row in rows):>8.1f}" for level in LEVELS)
    furthest = max((row.se for row in rows if row.se and row.faults >= ENOUGH), key=lambda se: abs(se - 1), default=0.0)
    worst += f"{max((row.z for row in rows), key=abs):>6.1f}{furthest:>6.2f}{drawn:>9.3f}"
    lines = [f"{name:<34}{lists.size:>8,}{len(lists.population):>9,}{_line(rows[0])} |{worst}"]
    labels = (f"  {row.group}, {row.quantity} {100 * row.truth:.3f} %" for row in rows)
    lines += [f"{label:<51}{_line(row)}" for label, row in zip(labels, rows, strict=True) if every]
    return lines, [f"{name}: {fault}" for fault in wrong]


def _line(row: Row) -> str:
    """Return the columns of a row; of a bias that too few lists tell, none."""
    cells = "".join(
        f"{100 * one.covers:>8.1f}{100 * one.above:>6.1f}{100 * one.below:>6.1f}{100 * one.width:>7.2f}"
        for one in row.limits.values()
    )
    if row.telling < ENOUGH:
        return f"{row.lists:>6}{cells}{'-':>26}"
    return f"{row.lists:>6}{cells}{row.bias:>8.3f}{row.z:>6.1f}{row.se:>6.2f}{row.seen:>6.2f}"


def show_census(census: Census, seconds: float) -> None:
    """Print what is true: of everything, of the kernels, and of each stored tensor."""
    faults = len(census.layers)
    inferences = f"{faults:,} faults x {census.inputs} inputs = {faults * census.inputs:,} inferences"
    print(f"{inferences}, run or read again in {seconds:.0f} s")
    names = (*QUANTITIES, "nonfinite")
    print(f"{'all figures in %':<22}{'faults':>9}" + "".join(f"{name:>14}" for name in (*names, "bit 30")))
    kernels = np.array(
        [tensor.endswith(".weight") and not tensor.startswith("bn") for tensor in census.tensors.tolist()]
    )
    masks = {"all": np.ones(faults, np.bool_), "kernels": kernels}
    masks |= {f"  {tensor}": census.tensors == tensor for tensor in dict.fromkeys(census.tensors.tolist())}
    for label, mask in masks.items():
        shares = [census.shares[name][mask].mean() for name in names]
        shares.append(census.shares["critical"][mask & (census.bits == 30)].mean())
        print(f"{label:<22}{mask.sum():>9,}" + "".join(f"{100 * share:>14.3f}" for share in shares))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--all", action="store_true")
    arguments = parser.parse_args()
    begun, wrong = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        census = take_census(arguments.run or Path(folder, "census"), EVERYTHING)
    show_census(census, time.monotonic() - begun)
    limits = f"{'covers':>8}{'above':>6}{'below':>6}{'width':>7}"
    print(f"\n{'':57}{'99 %':>27}{'95 %':>27}{'':26} | worst of nine")
    print(f"{'lists':<34}{'faults':>8}{'of':>9}{'lists':>6}{limits * 2}{'bias':>8}{'z':>6}{'SE':>6}", end="")
    print(f"{'seen':>6} |{'99 %':>8}{'95 %':>8}{'z':>6}{'SE':>6}{'drawn p':>9}", flush=True)
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        for lines, faults in pool.map(partial(run_case, census, arguments.samples, arguments.all), CASES):
            print("\n".join(lines), flush=True)
            wrong += faults
    for name, request in WHOLE.items():
        lists = plan_lists(census, request)
        own = [f"{name}: {fault}" for fault in lists.inexact()]
        wrong += own
        print(f"{name}, {lists.size:,} faults: {'not ' if own else ''}exactly the census, in an interval of no width")
    print("\n".join(wrong) or "all as it should be", f"\n{time.monotonic() - begun:.0f} s", sep="")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
