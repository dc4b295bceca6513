"""How much a precision-driven campaign saves against a fixed list, and whether its intervals hold: on published faults.

``python -m tests.benchmarks.precision_saving [--samples 2000]``. The published outcomes of ResNet20 and VGG11_bn (16,627
faults each, over 10,000 images, drawn from all weights alike) stand for a population a million times as large, with the same
shares in every layer and class of bits. The fixed list's interval is the one that ``estimate`` gives it at 99 %. Each sample
is a whole campaign of ``inject --until`` with half of that width as its goal: pilot, rounds and stop as the product decides
them, with outcomes drawn from the published ones; over all images, or over 32 images of each fault's own (of which as many
are critical as a hypergeometric draw says). Beside it the iterative method, with the same goal. Exits with 1 if the
stratified campaigns' intervals hold less often than 98.5 % or save less than 20 times the inferences in the design that
``--inputs-per-injection auto`` runs.
"""

import argparse
import sys
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.campaign.records import InterimEstimate
from bitswap_onnx.sampling.rounds import choose_strata
from bitswap_onnx.sampling.strata import bit_group
from bitswap_onnx.stats.intervals import Values, share_interval
from bitswap_onnx.until.goal import Goal, UntilScheme, is_reached
from bitswap_onnx.until.planners import SCHEMES, add_round, interim_estimate
from tests import reference
from tests.recorded import recorded_of

LEVEL, ENOUGH, SAVING = 0.99, 0.985, 20
LARGER, OWN_IMAGES = 10**6, 32
SUBJECTS = {
    "ResNet20": reference.RESNET_FILES / "ResNet20_FL.csv",
    "VGG11_bn": reference.RESNET_FILES.parent / "vgg" / "Vgg11_bn_FL.csv",
}


@dataclass(frozen=True)
class Published:
    """Critical counts of published faults over ``images`` inputs, by stratum; ``family`` (strata,): class of its bits."""

    critical: list[NDArray[np.int64]]
    family: NDArray[np.intp]
    images: int

    @property
    def shares(self) -> Values:
        return np.concatenate(self.critical) / self.images

    @property
    def sizes(self) -> list[int]:
        return [len(own) for own in self.critical]


def read(name: str, scheme: UntilScheme) -> Published:
    recorded = recorded_of(SUBJECTS[name])
    (images,) = set(recorded.inputs.tolist())
    classes = np.array([bit_group("float32", int(bit)) for bit in recorded.bits])
    layers = recorded.layers if scheme == "stratified" else np.full(len(recorded), "network")
    classes = classes if scheme == "stratified" else np.full(len(recorded), "all")
    names, member = np.unique(np.stack([layers, classes]), axis=1, return_inverse=True)
    critical = [recorded.counts["critical"][member == stratum] for stratum in range(names.shape[1])]
    return Published(critical, np.unique(names[1], return_inverse=True)[1], images)


def campaign(published: Published, scheme: UntilScheme, goal: Goal, own: int | None, seed: int) -> InterimEstimate:
    """Return the last interim estimate of one campaign."""
    rng = np.random.default_rng(seed)
    populations = [size * LARGER for size in published.sizes]
    planner = SCHEMES[scheme](np.array(populations, float), published.family, goal, with_replacement=own is not None)
    rounds, inputs = [planner.begin()], own or published.images
    while True:
        *_, pieces = choose_strata(rounds, populations, seed, with_replacement=own is not None)
        strata = np.concatenate([piece.strata for piece in pieces])
        counts = np.zeros(len(strata), np.int64)
        for stratum in np.unique(strata).tolist():
            member = strata == stratum
            counts[member] = rng.choice(published.critical[stratum], int(member.sum()))
        if own:
            counts = rng.hypergeometric(counts, published.images - counts, own)
        add_round(planner, pieces, counts / inputs, goal.margin)
        found = interim_estimate(planner, goal, len(rounds), len(planner.ledger) * inputs)
        if is_reached(found, goal):
            return found
        rounds.append(planner.go_on())


def report(name: str, scheme: UntilScheme, own: int | None, samples: int) -> tuple[float, float]:
    """Print a row; return the coverage and by how much fewer inferences were run."""
    published = read(name, scheme)
    shares, fixed = published.shares, len(published.shares)
    truth = float(shares.mean())
    low, high = share_interval([truth], [fixed], LEVEL)
    goal = Goal("critical", float(high - low) / 2, LEVEL)
    found = [campaign(published, scheme, goal, own, seed) for seed in range(samples)]
    held = np.array([one.low <= truth <= one.high for one in found])
    faults = np.array([one.injections for one in found])
    off = np.array([one.mean for one in found]) - truth
    saved = fixed * published.images / float(np.median([one.inferences for one in found]))
    print(
        f"{name:<10}{scheme:<12}{own or published.images:>8,}{100 * goal.margin:>8.3f}{np.median(faults):>8,.0f}"
        f"{np.quantile(faults, 0.95):>8,.0f}{np.median([one.round for one in found]):>7.0f}{fixed / np.median(faults):>8.1f}"
        f"{saved:>9.1f}{100 * held.mean():>8.2f}{100 * off.mean():>9.4f}{100 * off.std():>8.4f}",
        flush=True,
    )
    return float(held.mean()), saved


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2000)
    samples = parser.parse_args().samples
    begun, wrong = time.monotonic(), []
    print(
        f"{'model':<10}{'scheme':<12}{'inputs':>8}{'+- %':>8}{'faults':>8}{'95 %':>8}{'rounds':>7}{'x faults':>8}"
        f"{'x infer.':>9}{'covers':>8}{'bias':>9}{'SD':>8}"
    )
    for name in SUBJECTS:
        for own in (None, OWN_IMAGES):
            covered, saved = report(name, "stratified", own, samples)
            wrong += [name] if covered < ENOUGH or (own and saved < SAVING) else []
        report(name, "iterative", None, samples)
    print(f"{samples} campaigns a row; medians; covers, bias and SD in %; {time.monotonic() - begun:.0f} s")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
