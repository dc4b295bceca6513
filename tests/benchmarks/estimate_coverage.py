"""How often 99 % intervals of a critical share hold, and how wide they are: nine ways, on samples of published faults.

``python -m tests.benchmarks.estimate_coverage [--samples 2000] [--faults 500]`` draws samples with replacement from the
16,627 published faults of ResNet20 (a sample of a far larger population, whose own size then corrects nothing) and counts
how often each interval holds the share that it was drawn from: for the network, and for strata as large as they happen to
come out. Then the product's interval for yes/no shares, under stratified draws and under draws without replacement from a
small population. Exits with 1 if the product's interval covers less than 98.5 % anywhere.

Ways: ``naive`` faults x images independent; ``student`` clustered SE; ``bootstrap`` percentile, whole faults; ``hall``
Student's with Hall's correction for skewness (1992, doi 10.1111/j.2517-6161.1992.tb01876.x); ``wilson`` and
``korn-graubard`` with the effective size p (1 - p) / SE^2, not bounded; ``chernoff`` n KL(p, q) <= ln(2 / alpha), holding
for any bounded values (Hoeffding 1963, doi 10.1080/01621459.1963.10500830); ``betting`` hedged capital (Waudby-Smith and
Ramdas 2024, doi 10.1093/jrsssb/qkad009), likewise; ``chosen``: `bitswap_onnx.stats.intervals.share_interval`.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bitswap_onnx.estimates.read import Recorded
from bitswap_onnx.stats.clustered import bootstrap_interval
from bitswap_onnx.stats.intervals import Values, share_interval
from bitswap_onnx.stats.stratified import Bounded, Strata, estimate_mean, frame_of
from tests import reference
from tests.recorded import recorded_of

LEVEL, ALPHA = 0.99, 0.01
ENOUGH = 0.985
Z = float(stats.norm.ppf(1 - ALPHA / 2))
IMAGES = 10_000

Limits = tuple[Values, Values]


@dataclass(frozen=True)
class Moments:
    """Of each sample (samples,): faults, mean, sample standard deviation, skewness."""

    n: Values
    mean: Values
    sd: Values
    skew: Values

    @property
    def effective(self) -> Values:
        """Korn and Graubard's size; of samples without spread, their own."""
        with np.errstate(all="ignore"):
            return np.where(self.sd > 0, self.n * self.mean * (1 - self.mean) / self.sd**2, self.n)


def moments(values: Values, member: NDArray[np.bool_]) -> Moments:
    """Moments of the rows of ``values`` (samples, faults), over what is a member of a stratum; rows with two or more."""
    n = member.sum(axis=1)
    values, member, n = values[n > 1], member[n > 1], n[n > 1]
    mean = (values * member).sum(axis=1) / n
    off = (values - mean[:, None]) * member
    sd = np.sqrt((off**2).sum(axis=1) / (n - 1))
    skew = (off**3).sum(axis=1) / n / np.where(sd > 0, sd, 1) ** 3
    return Moments(n.astype(float), mean, sd, skew)


def naive(m: Moments) -> Limits:
    half = Z * np.sqrt(m.mean * (1 - m.mean) / m.n / IMAGES)
    return m.mean - half, m.mean + half


def student(m: Moments) -> Limits:
    half = stats.t.ppf(1 - ALPHA / 2, m.n - 1) * m.sd / np.sqrt(m.n)
    return m.mean - half, m.mean + half


def hall(m: Moments) -> Limits:
    skew = np.where(np.abs(m.skew) < 1e-9, 1e-9, m.skew)
    root = np.sqrt(m.n)
    low, high = (3 / skew * (np.cbrt(1 + skew * (z / root - skew / (6 * m.n))) - 1) for z in (-Z, Z))
    return m.mean - m.sd * high, m.mean - m.sd * low


def wilson(m: Moments) -> Limits:
    n, p = np.maximum(m.effective, 1e-9), m.mean
    middle = (p + Z * Z / 2 / n) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * np.sqrt(p * (1 - p) / n + Z * Z / 4 / n**2)
    return middle - half, middle + half


def korn_graubard(m: Moments) -> Limits:
    return share_interval(m.mean[:, None], np.maximum(m.effective, 1e-9)[:, None], LEVEL)


def chernoff(m: Moments) -> Limits:
    """Bisect for the shares q on both sides of p with n KL(p, q) = ln(2 / alpha)."""

    def limit(inner: Values, outer: Values) -> Values:
        for _ in range(50):
            q = np.clip((inner + outer) / 2, 1e-15, 1 - 1e-15)
            kl = stats.entropy([m.mean, 1 - m.mean], [q, 1 - q])
            near = m.n * kl <= np.log(2 / ALPHA)
            inner, outer = np.where(near, q, inner), np.where(near, outer, q)
        return np.asarray(outer)

    return limit(m.mean, np.zeros_like(m.mean)), limit(m.mean, np.ones_like(m.mean))


def chosen(m: Moments) -> Limits:
    return share_interval(m.mean[:, None], m.n[:, None], LEVEL)


WAYS: dict[str, Callable[[Moments], Limits]] = {
    "naive": naive,
    "student": student,
    "hall": hall,
    "wilson": wilson,
    "korn-graubard": korn_graubard,
    "chernoff": chernoff,
    "chosen": chosen,
}


def bootstrap(samples: Values) -> Limits:
    rng, one = np.random.default_rng(1), np.zeros(samples.shape[1])
    limits = np.array([bootstrap_interval(values, one, rng, LEVEL, 1000) for values in samples])
    return limits[:, 0], limits[:, 1]


def betting(samples: Values, truth: float) -> Limits:
    """Hedged capital with predictable plug-in bets, over a grid of means that has ``truth`` in it."""
    n, count = samples.shape[1], np.arange(1, samples.shape[1] + 1)
    means = (0.5 + np.cumsum(samples, axis=1)) / (count + 1)
    variances = (0.25 + np.cumsum((samples - means) ** 2, axis=1)) / (count + 1)
    before = np.concatenate([np.full((len(samples), 1), 0.25), variances[:, :-1]], axis=1)
    bets = np.sqrt(2 * np.log(2 / ALPHA) / (n * before))
    low, high = np.ones(len(samples)), np.zeros(len(samples))
    for mean in np.unique([*np.linspace(0, 0.06, 121), *np.linspace(0.08, 1, 24), truth]):
        up = np.log1p(np.minimum(bets, 0.5 / max(mean, 1e-12)) * (samples - mean)).sum(axis=1)
        down = np.log1p(-np.minimum(bets, 0.5 / max(1 - mean, 1e-12)) * (samples - mean)).sum(axis=1)
        kept = np.maximum(up, down) < np.log(2 / ALPHA)
        low, high = np.where(kept, np.minimum(low, mean), low), np.where(kept, np.maximum(high, mean), high)
    return low, high


def report(name: str, way: str, limits: Limits, truth: float) -> float:
    """Print a row: coverage, misses on either side, mean width; return the coverage."""
    low, high = limits
    above, below = low > truth + 1e-12, high < truth - 1e-12
    covered = 1 - float((above | below).mean())
    width = float((np.minimum(high, 1) - np.maximum(low, 0)).mean())
    print(
        f"{name:<34}{way:<15}{100 * covered:8.2f}{100 * above.mean():8.2f}{100 * below.mean():8.2f}{100 * width:10.3f}",
        flush=True,
    )
    return covered


def strata(recorded: Recorded) -> dict[str, NDArray[np.bool_]]:
    """Name the strata that are looked at: the network first, then bits and layers."""
    bit = recorded.bits.astype(int)
    layers = dict.fromkeys(recorded.layers.tolist())
    sizes = {layer: int((recorded.layers == layer).sum()) for layer in layers}
    shown = sorted(layers, key=lambda layer: -sizes[layer])
    found = {"network": bit >= 0, "bit 30": bit == 30, "all but bit 30": bit != 30}
    found |= {name: recorded.bit_classes == name for name in ("sign", "exponent", "mantissa")}
    return found | {
        f"layer {layer}": recorded.layers == layer for layer in (shown[0], shown[len(shown) // 2], shown[-1])
    }


def shares(recorded: Recorded, samples: int, faults: int) -> list[float]:
    """Print all ways for the critical share of the network and of strata; return the chosen one's coverages."""
    critical = recorded.counts["critical"] / recorded.inputs
    drawn = np.random.default_rng(0).integers(0, len(critical), (samples, faults))
    values, found = critical[drawn], []
    for name, member in strata(recorded).items():
        truth, own = float(critical[member].mean()), moments(values, member[drawn])
        label = f"{name}, n {own.n.min():.0f}-{own.n.max():.0f}"
        for way, limits in WAYS.items():
            found.append((way, report(label, way, limits(own), truth)))
        if name == "network":
            report(label, "bootstrap", bootstrap(values), truth)
            report(label, "betting", betting(values, truth), truth)
    return [covered for way, covered in found if way == "chosen"]


def others(recorded: Recorded, samples: int, faults: int) -> list[float]:
    """Print the product's interval for other quantities and draws; return its coverages."""
    critical = np.asarray(recorded.counts["critical"] / recorded.inputs)
    masked = np.asarray(recorded.counts["masked"] / recorded.inputs)
    top, everything = recorded.bits == "30", np.ones(len(critical), np.bool_)
    rng, result = np.random.default_rng(2), []

    def run(
        name: str, values: Values, members: list[NDArray[np.bool_]], sizes: list[int], finite: bool = False
    ) -> None:
        populations = [int(member.sum()) if finite else int(member.sum()) * 10**6 for member in members]
        frame = frame_of(name, sum(sizes), Strata(tuple(map(str, sizes)), tuple(sizes), tuple(populations)))
        pools = [values[member] for member in members]
        truth = sum(pool.sum() for pool in pools) / sum(map(len, pools))
        drawn = (
            np.concatenate([rng.choice(pool, size, not finite) for pool, size in zip(pools, sizes, strict=True)])
            for _ in range(samples)
        )
        found = [estimate_mean(frame, np.arange(sum(sizes)), Bounded(values), LEVEL) for values in drawn]
        limits = np.array([one.low for one in found]), np.array([one.high for one in found])
        result.append(report(name, "chosen", limits, float(truth)))

    run("masked", masked, [everything], [faults])
    run("any critical input", (critical > 0).astype(float), [everything], [faults])
    run("critical share >= 1 %", (critical >= 0.01).astype(float), [everything], [faults])
    run("bit 30 and the rest, 2 : 3", critical, [top, ~top], [2 * faults // 5, 3 * faults // 5])
    layers = [recorded.layers == layer for layer in dict.fromkeys(recorded.layers.tolist())]
    run("20 layers, as many of each", critical, layers, [faults // 20] * len(layers))
    bits = [recorded.bits == bit for bit in dict.fromkeys(recorded.bits.tolist())]
    run("32 bits, as many of each", critical, bits, [faults // 32] * len(bits))
    cells = [layer & bit for layer in layers for bit in bits if (layer & bit).any()]
    sizes = [max(2, round(faults * float(cell.mean()))) for cell in cells]
    run(f"{len(cells)} layers x bits, 2 or more", critical, cells, sizes)
    for part in (0.5, 0.9):
        few = np.zeros(len(critical), np.bool_)
        few[rng.choice(len(critical), faults, replace=False)] = True
        run(f"{100 * part:g} % of a population of {faults}", critical, [few], [int(part * faults)], finite=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--faults", type=int, default=500)
    arguments = parser.parse_args()
    begun = time.monotonic()
    recorded = recorded_of(reference.RESNET_FILES / "ResNet20_FL.csv")
    print(f"{arguments.samples} samples of {arguments.faults} faults; {100 * LEVEL:g} % intervals; all figures in %")
    print(f"{'share':<34}{'interval':<15}{'covers':>8}{'above':>8}{'below':>8}{'width':>10}")
    covered = shares(recorded, arguments.samples, arguments.faults)
    covered += others(recorded, arguments.samples, arguments.faults)
    print(f"lowest coverage of the chosen interval: {100 * min(covered):.2f} %; {time.monotonic() - begun:.0f} s")
    sys.exit(min(covered) < ENOUGH)


if __name__ == "__main__":
    main()
