"""Where less than one flip is expected, a sweep's critical share is B x rate x (critical share of a single flip).

``python -m tests.benchmarks.sweep_check [--flips N] [--inputs I]`` sweeps ResNet20 with its trained weights over the B
bits of its conv and linear weights, at each of three rates so many times that about N bits flip, and compares the
critical share over all repeats (no flip: none critical) with two predictions: from N single flips drawn apart, uniformly
among the same bits, and from the published fault list (its outcomes, on all 10,000 images). Prints intervals and whether
they overlap; exits with 1 if some do not. The prediction is linear in the rate: two flips that are critical for one input
count twice in it, which makes it too large by less than a percent here.
"""

import argparse
import csv
import math
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.experiments.sweep.bit_errors import faults_at, find_regions
from bitswap_onnx.experiments.sweep.results import RateSummary
from bitswap_onnx.experiments.sweep.run import sweep_errors
from bitswap_onnx.faults.fault import Injection
from bitswap_onnx.stats.clustered import Mean, clustered_mean
from bitswap_onnx.stats.intervals import CONFIDENCE_LEVEL
from tests.benchmarks.subjects import add_reference, campaign, image_settings, machine, make_subject, published_list

RATES = (1e-9, 1e-8, 1e-7)

#: The layers of the published list.
LAYERS = "conv,linear.weight"


def published_share(name: str, reference: Path) -> Mean:
    """The critical share of the published faults, by their own outcomes."""
    with published_list(name, reference).open(newline="") as file:
        return clustered_mean(
            np.array([int(row["critical"]) / int(row["n_injections"]) for row in csv.DictReader(file)])
        )


def single_share(model: Path, settings: Settings, count: int, seed: int, run: Path) -> tuple[int, Mean]:
    """The number of bits, and the critical share of ``count`` single flips drawn uniformly among them."""
    _, regions = find_regions(prepare(model, settings), LAYERS, "weights")
    bits = sum(region.bits for region in regions)
    positions = np.sort(np.random.default_rng(seed).choice(bits, count, replace=False, shuffle=False))
    flips = [Injection(str(number), (fault,)) for number, fault in enumerate(faults_at(regions, positions))]
    critical = campaign(model, flips, run, settings).critical()
    assert settings.first is not None
    return bits, clustered_mean(np.array(list(critical.values())) / settings.first)


def swept(model: Path, settings: Settings, bits: int, rate: float, flips: int, run: Path) -> RateSummary:
    """Sweep at one rate, as often as it takes to flip about ``flips`` bits."""
    repeats = math.ceil(flips / (bits * rate))
    sweep = sweep_errors(model, [rate], repeats=repeats, layers=LAYERS, settings=settings, options=RunOptions(run=run))
    assert sweep.bits == bits
    return sweep.rows[0]


def main() -> None:
    parser = argparse.ArgumentParser()
    add_reference(parser)
    parser.add_argument("--flips", type=int, default=3000)
    parser.add_argument("--inputs", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    settings = image_settings(options.reference, options.inputs)
    print(f"{machine()}\nResNet20, first {options.inputs} images, about {options.flips} flips per rate", flush=True)
    start, rows = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as folder:
        model = make_subject("ResNet20", options.reference, Path(folder)).model
        bits, single = single_share(model, settings, options.flips, options.seed, Path(folder, "single"))
        print(f"{bits:,} bits; single flips: {time.perf_counter() - start:.0f} s", flush=True)
        for number, rate in enumerate(RATES):
            start, seeded = time.perf_counter(), replace(settings, seed=options.seed + 1 + number)
            rows.append(swept(model, seeded, bits, rate, options.flips, Path(folder, f"{rate}")))
            print(
                f"{rate:g}: {rows[-1].repeats} repeats, {rows[-1].flipped} with flips: {time.perf_counter() - start:.0f} s",
                flush=True,
            )
    predictions = {"own single flips": single, "published list": published_share("ResNet20", options.reference)}
    for name, mean in predictions.items():
        print(f"{name}: {mean.n} faults, critical {percent(mean, 1)}")
    print(
        f"critical in %, {100 * CONFIDENCE_LEVEL:g} % intervals: rate | expected flips, drawn | sweep | prediction "
        "| overlap | z"
    )
    apart = 0
    for row in rows:
        measured = row.means["critical"]
        assert measured is not None
        for name, mean in predictions.items():
            expected = bits * row.rate
            overlap = overlaps(
                measured.interval(CONFIDENCE_LEVEL), [expected * bound for bound in mean.interval(CONFIDENCE_LEVEL)]
            )
            z = (measured.mean - expected * mean.mean) / np.hypot(measured.se, expected * mean.se)
            apart += not overlap
            print(
                f"{row.rate:g} | {expected:.4f}, {row.flips:.4f} | {percent(measured, 1)} | "
                f"{percent(mean, expected)} {name} | {'yes' if overlap else 'NO'} | {z:+.2f}"
            )
    sys.exit(1 if apart else 0)


def percent(mean: Mean, factor: float) -> str:
    """A mean share times ``factor`` and its interval, in percent."""
    low, high = (100 * factor * bound for bound in mean.interval(CONFIDENCE_LEVEL))
    return f"{100 * factor * mean.mean:.4f} [{low:.4f}, {high:.4f}]"


def overlaps(a: tuple[float, float], b: list[float]) -> bool:
    return a[0] <= b[1] and b[0] <= a[1]


if __name__ == "__main__":
    main()
