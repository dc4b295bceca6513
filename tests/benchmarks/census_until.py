"""Precision-driven campaigns, replayed many times on a census of the shipped digits model: do their intervals hold?

``python -m tests.benchmarks.census_until [--run DIR] [--samples 1000]`` runs every fault of the model and keeps the outcome
of every inference (`tests.benchmarks.census`; what DIR has of that is not run again). Then it replays ``inject
--until`` with the seeds 0, 1, 2, ...: strata, draws, blocks of inputs, rounds and the stop are the product's, outcomes are
looked up. A look misses where its interval does not hold the census's share; a campaign does where any of its looks misses,
which at 90 % one in ten may. Exits with 1 if more do, by three Monte Carlo standard errors, at any confidence.
"""

import argparse
import math
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.campaign.records import InterimEstimate
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.outcome import OUTCOME_NAMES, decode_outcomes
from bitswap_onnx.sampling.draws import draw, permute
from bitswap_onnx.sampling.input_blocks import sample_inputs
from bitswap_onnx.sampling.rounds import choose_strata
from bitswap_onnx.until.drawn_list import DrawnList, Until
from bitswap_onnx.until.goal import Goal, UntilScheme, is_reached
from bitswap_onnx.until.planners import add_round, interim_estimate
from tests.benchmarks.census import EVERYTHING
from tests.campaigns import rows_of_store
from tests.census import MODEL, Census, take_census

Codes = NDArray[np.uint8]


class Case(NamedTuple):
    """A goal, how many inputs of its own each fault has (None: all), the scheme, and the faults that there are."""

    goal: Goal
    own: int | None = None
    scheme: UntilScheme = "stratified"
    layers: str | None = None
    bits: str | None = None


CASES = (
    Case(Goal("critical", 0.02, 0.9)),
    Case(Goal("critical", 0.005, 0.9)),
    Case(Goal("critical", 0.002, 0.9)),
    Case(Goal("critical", 0.0005, 0.9)),
    Case(Goal("critical", 0.005, 0.99)),
    Case(Goal("critical", 0.005, 0.9), 32),
    Case(Goal("critical", 0.005, 0.99), 32),
    Case(Goal("masked", 0.05, 0.9)),
    Case(Goal("masked", 0.05, 0.9), 32),
    Case(Goal("critical", 0.05, 0.9), None, "stratified", "linear", "30"),
    Case(Goal("critical", 0.05, 0.9), 32, "stratified", "linear", "30"),
    Case(Goal("critical", 0.005, 0.99), None, "iterative"),
)


@dataclass(frozen=True, eq=False)
class Replay:
    """A census to look outcomes up in: ``codes`` (faults, inputs); ``tables``: each stratum's positions, in its order."""

    drawn: DrawnList
    codes: Codes
    tables: list[NDArray[np.intp]]

    def campaign(self, goal: Goal, own: int | None, seed: int) -> list[InterimEstimate]:
        """Return all interim estimates of one campaign."""
        sample = sample_inputs(own, self.codes.shape[1], 32, seed)
        planner, wanted = self.drawn.planner(), OUTCOME_NAMES.index(goal.quantity)
        rounds, taken, estimates, number = [planner.begin()], [0] * len(self.tables), list[InterimEstimate](), 0
        while True:
            *_, pieces = choose_strata(
                rounds, self.drawn.populations, seed, with_replacement=self.drawn.with_replacement
            )
            strata = np.concatenate([piece.strata for piece in pieces])
            positions = np.zeros(len(strata), np.intp)
            for stratum in np.unique(strata).tolist():
                member = np.flatnonzero(strata == stratum)
                positions[member] = self._drawn(stratum, taken[stratum], len(member), seed)
                taken[stratum] += len(member)
            ids = range(number, number + len(strata))
            blocks = [None if (one := sample.block_of(str(i))) is None else (one.first, one.stop) for i in ids]
            values = np.zeros(len(strata))
            for block in set(blocks):
                inputs = slice(*block) if block else slice(None)
                member = np.array([i for i, other in enumerate(blocks) if other == block])
                values[member] = (self.codes[positions[member], inputs] == wanted).mean(axis=1)
            number += len(strata)
            add_round(planner, pieces, values, goal.margin)
            estimates.append(interim_estimate(planner, goal, len(rounds), number * (own or self.codes.shape[1])))
            if is_reached(estimates[-1], goal) or not planner.ledger.left.any():
                return estimates
            rounds.append(planner.go_on())

    def _drawn(self, stratum: int, start: int, count: int, seed: int) -> NDArray[np.intp]:
        """Return the positions of the next faults that ``seed`` draws from a stratum."""
        table, name = self.tables[stratum], self.drawn.strata[stratum].name
        ranks = np.arange(start, start + count, dtype=np.uint64)
        if self.drawn.with_replacement:
            return table[(permute(ranks, 1 << 63, f"{seed}/{name}/again") % np.uint64(len(table))).astype(np.intp)]
        return table[permute(ranks, len(table), f"{seed}/{name}").astype(np.intp)]


def read_codes(run: Path, faults: int, inputs: int) -> Codes:
    """Return the outcome codes of a census (faults, inputs)."""
    codes = np.zeros((faults, inputs), np.uint8)
    for position, first, blob in rows_of_store(run, "SELECT position, first, per_input FROM outcome"):
        own = decode_outcomes(blob)[0]
        codes[position, first : first + len(own)] = own
    return codes


def replay(census: Census, codes: Codes, case: Case) -> Replay:
    until = Until(goal=case.goal, scheme=case.scheme, layers=case.layers, bits=case.bits)
    drawn = DrawnList(prepare(MODEL, Settings()), until, own_inputs=case.own is not None)
    whole = ([fault for (fault,) in draw(one, drawn.pattern, 0, one.slots)] for one in drawn.strata)
    return Replay(drawn, codes, [census.positions(faults) for faults in whole])


def report(census: Census, codes: Codes, case: Case, samples: int) -> bool:
    """Print a row; return whether campaigns miss more often than they may."""
    ran, goal = replay(census, codes, case), case.goal
    everything = np.concatenate(ran.tables)
    truth = float((codes[everything] == OUTCOME_NAMES.index(goal.quantity)).mean())
    campaigns = [ran.campaign(goal, case.own, seed) for seed in range(samples)]
    missed = [[not one.low - 1e-12 <= truth <= one.high + 1e-12 for one in campaign] for campaign in campaigns]
    ever, last = np.mean([any(own) for own in missed]), np.mean([own[-1] for own in missed])
    faults = np.array([campaign[-1].injections for campaign in campaigns])
    off = np.array([campaign[-1].mean for campaign in campaigns]) - truth
    what = f"{goal} {case.layers or ''}{' ' + case.bits if case.bits else ''}"
    print(
        f"{what:<32}{case.scheme:<11}{case.own or codes.shape[1]:>6}{len(everything):>9,}{100 * truth:>8.3f}"
        f"{np.median(faults):>8,.0f}{np.median([len(campaign) for campaign in campaigns]):>7.0f}{100 * (1 - ever):>10.2f}"
        f"{100 * (1 - last):>8.2f}{100 * off.mean():>8.3f}{100 * off.std() / math.sqrt(samples):>7.3f}",
        flush=True,
    )
    allowed = 1 - goal.level
    return case.scheme == "stratified" and float(ever) > allowed + 3 * math.sqrt(allowed * goal.level / samples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--samples", type=int, default=1000)
    arguments = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        run = arguments.run or Path(folder, "census")
        census = take_census(run, EVERYTHING)
        codes = read_codes(run, len(census.layers), census.inputs)
        print(
            f"{'goal':<32}{'scheme':<11}{'inputs':>6}{'of':>9}{'true %':>8}{'faults':>8}{'rounds':>7}{'all looks':>10}"
            f"{'stop':>8}{'bias':>8}{'+-':>7}"
        )
        wrong = [report(census, codes, case, arguments.samples) for case in CASES]
    print(f"{arguments.samples} campaigns a row; faults and rounds are medians; {time.monotonic() - begun:.0f} s")
    sys.exit(any(wrong))


if __name__ == "__main__":
    main()
