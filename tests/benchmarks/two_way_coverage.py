"""How often 99 % intervals hold where inputs are a sample too: all faults on the same ones, or each fault on its own.

``python -m tests.benchmarks.two_way_coverage [--population RUN] [--samples 2000]`` runs trained ResNet20 once, 3,000 of
the published faults (all of bit 30) on 846 images, each outcome kept: a population that has the published share of bit 30
by weights. Samples are faults and images drawn from it with replacement, so that they come from far larger populations.
RUN, if it exists, is what an earlier call has run and kept there.

Crossed, the same images for all faults: ``two-way`` is what ``estimate --over-inputs`` says; ``cond.`` what ``estimate``
says without, conditional on the inputs; ``naive`` faults x images independent; ``wald`` the two-way standard error and a
normal quantile; ``pigeon`` percentiles of Owen's pigeonhole bootstrap, faults and images drawn again each, of fewer
samples. Nested, a block of images drawn for each fault: ``nested`` is what ``estimate`` says. Exits with 1 if the product's
two-way or nested interval covers less than 98.5 % in any row but those marked *: with far more faults than published, the
inputs decide, and the few that low bits can turn are too rare for an interval made of the inputs' means.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.campaign.run_directory import has_store
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.faults.fault_list import read_fault_list
from bitswap_onnx.outcome import CRITICAL, MASKED, decode_outcomes
from bitswap_onnx.stats.intervals import Values
from bitswap_onnx.stats.stratified import Bounded, Estimate, estimate_mean, frame_of
from bitswap_onnx.stats.two_way import Margins, add_stratum, over_inputs
from tests.benchmarks.subjects import add_reference, image_settings, make_subject, published_list
from tests.campaigns import rows_of_store

LEVEL, ENOUGH = 0.99, 0.985
Z = float(stats.norm.ppf((1 + LEVEL) / 2))
FAULTS, IMAGES, PUBLISHED = 3000, 846, 16_627
#: Faults and images of the samples, and images of each fault's own.
CROSSED = ((500, 100), (4000, 30), (PUBLISHED, 100), (PUBLISHED, IMAGES))
NESTED = ((500, 32), (PUBLISHED, 8))
#: Where the two-way interval falls short.
BEYOND = (300_000, 100)
BOOTSTRAPPED, DRAWS = 100, 400
WAYS = ("two-way", "cond.", "naive", "wald", "pigeon")

Counts = NDArray[np.int64]
Limits = list[tuple[float, float]]


@dataclass(frozen=True, eq=False)
class Population:
    """Whether each fault does something on each image, (faults, images) of 0 and 1, and how probable each fault is."""

    name: str
    values: NDArray[np.float32]
    weights: Values

    @property
    def truth(self) -> float:
        return float(self.weights @ self.values.mean(axis=1, dtype=np.float64))


def run_population(reference: Path, run: Path) -> None:
    """Run all published faults of bit 30 and so many others that there are `FAULTS`."""
    with tempfile.TemporaryDirectory() as folder:
        subject = make_subject("ResNet20", reference, Path(folder))
        published = list(read_fault_list(subject.faults))
        top = [one for one in published if one.faults[0].bit == 30]
        rest = [one for one in published if one.faults[0].bit != 30]
        chosen = top + random.Random(0).sample(rest, FAULTS - len(top))
        settings = image_settings(reference, IMAGES)
        run_campaign(prepare(subject.model, settings), chosen, options=RunOptions(run=run, records=["per_input"]))


def read_populations(run: Path, published: Path) -> list[Population]:
    """Read what the run recorded; bit 30 has the share of the published list, by weights."""
    bits = np.array([bit for (bit,) in rows_of_store(run, "SELECT bit FROM receipt ORDER BY position")])
    blobs = rows_of_store(run, "SELECT per_input FROM outcome ORDER BY position, first")
    codes, _ = decode_outcomes(b"".join(blob for (blob,) in blobs))
    codes = codes.reshape(len(bits), -1)
    share = float(np.mean([one.faults[0].bit == 30 for one in read_fault_list(published)]))
    top = bits == 30
    weights = np.where(top, share / top.sum(), (1 - share) / (~top).sum())
    critical, masked = ((codes == code).astype(np.float32) for code in (CRITICAL, MASKED))
    return [
        Population("critical", critical, weights),
        Population("critical, bit 30", critical[top], weights[top] / weights[top].sum()),
        Population("critical, other bits", critical[~top], weights[~top] / weights[~top].sum()),
        Population("masked", masked, weights),
    ]


def draw(population: Population, n: int, m: int, samples: int) -> Iterator[tuple[Counts, Counts]]:
    """Yield how often each fault and each image was drawn."""
    rng, images = np.random.default_rng((n, m)), population.values.shape[1]
    for _ in range(samples):
        yield rng.multinomial(n, population.weights), rng.multinomial(m, np.full(images, 1 / images))


def cross(population: Population, faults: Counts, images: Counts) -> dict[str, tuple[float, float]]:
    """Return the limits of one crossed sample by every way but the bootstrap."""
    n, m = int(faults.sum()), int(images.sum())
    rows = np.repeat(population.values @ images.astype(np.float32), faults).astype(np.float64)
    columns = np.repeat(faults.astype(np.float32) @ population.values, images).astype(np.float64)
    found = estimate_mean(frame_of("", n, None), np.arange(n), Bounded(rows / m), LEVEL)
    both = over_inputs(found, add_stratum(None, Margins(rows, columns), 1.0, 1.0), LEVEL)
    naive = Z * np.sqrt(found.mean * (1 - found.mean) / n / m)
    return {
        "two-way": (both.low, both.high),
        "cond.": (found.low, found.high),
        "naive": (found.mean - naive, found.mean + naive),
        "wald": (found.mean - Z * both.se, found.mean + Z * both.se),
    }


def pigeonhole(
    population: Population, faults: Counts, images: Counts, rng: np.random.Generator, draws: int = DRAWS
) -> tuple[float, float]:
    """Return the percentile interval of the mean when faults and, apart from them, images are drawn again (Owen 2007)."""
    n, m = int(faults.sum()), int(images.sum())
    rows, columns = np.flatnonzero(faults), np.flatnonzero(images)
    values = population.values[np.ix_(rows, columns)]
    again = rng.multinomial(n, faults[rows] / n, size=draws).astype(np.float32)
    means = ((again @ values) * rng.multinomial(m, images[columns] / m, size=draws)).sum(axis=1) / n / m
    low, high = np.percentile(means, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)


def nested(population: Population, n: int, length: int, samples: int) -> Limits:
    """Return the limits of samples of faults, each on the block of an image that is drawn for it."""
    images = population.values.shape[1]
    starts = np.arange(0, images, length)
    sizes = np.diff([*starts, images])
    means = np.add.reduceat(population.values, starts, axis=1) / sizes
    rng, frame = np.random.default_rng((n, length, 1)), frame_of("", n, None, inputs_drawn=True)
    limits = []
    for _ in range(samples):
        faults = rng.choice(len(means), n, p=population.weights)
        drawn = means[faults, rng.choice(len(sizes), n, p=sizes / images)]
        found: Estimate = estimate_mean(frame, np.arange(n), Bounded(drawn.astype(np.float64)), LEVEL)
        limits.append((found.low, found.high))
    return limits


def describe(population: Population, limits: Limits) -> tuple[float, float]:
    """Return how often limits hold, and how wide they are on average."""
    low, high = np.array(limits).T
    held = (low <= population.truth + 1e-12) & (high >= population.truth - 1e-12)
    return float(held.mean()), float((np.minimum(high, 1) - np.maximum(low, 0)).mean())


def show(population: Population, size: str, found: dict[str, tuple[float, float]]) -> None:
    """Print a row: coverage and width of some ways."""
    cells = (f"{100 * covered:9.2f} {100 * width:6.3f}" for covered, width in found.values())
    print(f"{population.name:<21}{size:<16}{''.join(cells)}", flush=True)


def measure_crossed(population: Population, samples: int) -> Iterator[float]:
    """Print a row per size; yield the two-way interval's coverages."""
    for n, m in CROSSED:
        drawn = list(draw(population, n, m, samples))
        ways = [cross(population, *one) for one in drawn]
        rng = np.random.default_rng(0)
        bootstrapped = [pigeonhole(population, *one, rng) for one in drawn[:BOOTSTRAPPED]]
        found = {way: describe(population, [one[way] for one in ways]) for way in ways[0]}
        show(population, f"{n:,} x {m}", found | {"pigeon": describe(population, bootstrapped)})
        yield found["two-way"][0]
    n, m = BEYOND
    ways = [cross(population, *one) for one in draw(population, n, m, samples // 4)]
    show(population, f"{n:,} x {m} *", {way: describe(population, [one[way] for one in ways]) for way in ways[0]})


def measure_nested(population: Population, samples: int) -> Iterator[float]:
    """Print a row per size; yield the nested interval's coverages."""
    for n, length in NESTED:
        found = describe(population, nested(population, n, length, samples))
        show(population, f"{n:,} x {length}", {"nested": found})
        yield found[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_reference(parser)
    parser.add_argument("--population", type=Path, metavar="RUN", help="where the run is, or is kept; default: nowhere")
    parser.add_argument("--samples", type=int, default=2000)
    arguments = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        run = arguments.population or Path(folder, "run")
        if not (run.is_dir() and has_store(run)):
            run_population(arguments.reference, run)
            print(
                f"{FAULTS:,} faults x {IMAGES} images: {time.monotonic() - begun:.0f} s, load {os.getloadavg()[0]:.1f}"
            )
        populations = read_populations(run, published_list("ResNet20", arguments.reference))
    sizes = f"{arguments.samples:,} samples ({BOOTSTRAPPED} of pigeon, {arguments.samples // 4} of *)"
    print(f"{sizes}; {100 * LEVEL:g} % intervals: coverage and mean width, in %")
    print(f"{'share of inferences':<21}{'faults x images':<16}{''.join(f'{way:>16}' for way in WAYS)}")
    covered = [one for population in populations for one in measure_crossed(population, arguments.samples)]
    print(f"{'':<37}{'nested':>16}")
    covered += [one for population in populations for one in measure_nested(population, arguments.samples)]
    print(f"lowest coverage of the product's intervals: {100 * min(covered):.2f} %; {time.monotonic() - begun:.0f} s")
    sys.exit(min(covered) < ENOUGH)


if __name__ == "__main__":
    main()
