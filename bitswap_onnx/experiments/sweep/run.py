"""Accuracy against bit error rate: random bit errors at several rates, several times each, in one campaign.

At each rate every bit of the chosen weights and neurons flips independently (`bit_errors`). Errors in weights stay for all
inputs; neurons have errors of their own for every input. The repeat is the sampling unit and its inputs are a cluster, so
an interval is Student's over the repeats, cut to what a share can be (0 to 1) and conditional on the inputs. Where all
repeats came out alike, `interval` allows for outcomes that no repeat showed.
"""

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Unpack

import numpy as np

from bitswap_onnx.campaign.executor import Running
from bitswap_onnx.campaign.run import as_begun, default_run, run_campaign
from bitswap_onnx.campaign.run_directory import has_store, reading
from bitswap_onnx.campaign.setup import Settings, Setup, for_neurons, prepare
from bitswap_onnx.errors import ControlFailedError, RunError
from bitswap_onnx.experiments.sweep.bit_errors import (
    SweepPlan,
    SweepPoint,
    SweepSite,
    check_rates,
    find_regions,
    plan_sweep,
)
from bitswap_onnx.faults.fault import Injection
from bitswap_onnx.files import replacing
from bitswap_onnx.outcome import COUNTS, Golden, judge
from bitswap_onnx.stats.clustered import Mean, clustered_mean, upper_share
from bitswap_onnx.stats.intervals import CONFIDENCE_LEVEL

DEFAULT_REPEATS = 30

#: What is measured at every point: counts of `bitswap_onnx.outcome.COUNTS`, as shares of all inputs.
SWEEP_MEASURES = ("top_1_correct", "top_5_correct", "top_1_robust", "critical", "nonfinite")

#: Share of the inputs, 0 to 1, per name of `MEASURES`; None for what does not apply (correctness without labels).
Shares = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class RateSummary:
    """One rate. ``flipped`` of its ``repeats`` had a flip; ``flips`` is their mean number; ``means`` of `SWEEP_MEASURES`."""

    rate: float
    repeats: int
    flipped: int
    flips: float
    means: dict[str, Mean | None]


@dataclass(frozen=True, eq=False)
class Sweep:
    """A finished sweep over ``bits`` bits (neurons: of all ``inputs``). ``golden``: the shares without any error.

    ``points`` holds every repeat at every rate with its shares, ``rows`` every rate; both ascend by rate.
    """

    run: Path
    network: str
    dataset: str
    bits: int
    inputs: int
    golden: Shares
    points: tuple[tuple[SweepPoint, Shares], ...]
    rows: tuple[RateSummary, ...]

    @property
    def files(self) -> tuple[Path, Path]:
        """``<model>.csv``, one row per rate, and ``detail-<model>.csv``, one row per point; golden ones at rate 0."""
        return _files(self.run, self.network)


def sweep_errors(
    model: str | Path,
    rates: Iterable[float],
    *,
    repeats: int = DEFAULT_REPEATS,
    layers: str | None = None,
    exclude: str | None = None,
    site: SweepSite = "weights",
    settings: Settings = Settings(),
    **running: Unpack[Running],
) -> Sweep:
    """Flip the bits of ``model`` at random at each of ``rates``, ``repeats`` times, and measure what it does.

    ``layers`` chooses by comma-separated globs or parts of names: of layers and parameters for ``site`` weights, of layers
    with kernels (their outputs) for neurons; for both, each must match some of either. ``exclude`` leaves out in the same
    way; neurons that faults cannot get at are left out, and a note says so. ``settings.seed`` seeds the drawing
    (`plan_sweep` says what another seed, repeat or rate changes). The rest is as in `run_campaign`, which runs every point
    that has flips; the files of `Sweep.files` go into its run directory.

    Raises BitswapError as `check_rates`, `plan_sweep`, `select_targets`, `select_sites` and `run_campaign` do.
    """
    rates = check_rates(rates)
    run, resume, on_notes = running.get("run"), running.get("resume", False), running.get("on_notes")
    if resume and run is None:
        raise RunError("--resume needs --out RUN: the run directory to continue")
    settings = settings if site == "weights" else for_neurons(settings)
    setup = prepare(Path(model), as_begun(settings, run) if resume else settings)
    setup, regions = find_regions(setup, layers, site, exclude)
    plan = plan_sweep(regions, rates, repeats, settings.seed)
    folder = Path(run) if run else default_run(setup)
    if on_notes:
        on_notes([plan.description, *(() if plan.injections else setup.notes)])
    if plan.injections:
        own = running | Running(run=folder)
        _run(lambda: run_campaign(setup, plan.injections, **own), _all_files(folder, setup.model.name))
    golden = setup.clean_run(running.get("stop")).golden
    if not plan.injections:
        _make_folder(folder, setup.model.name, resume)
    sweep = _measured(setup, plan, golden, folder)
    _write(sweep, settings.seed)
    return sweep


def _run(campaign: Callable[[], object], files: Iterable[Path]) -> None:
    try:
        campaign()
    except ControlFailedError:  # what an earlier end of this sweep wrote is wrong
        for file in files:
            file.unlink(missing_ok=True)
        raise


def _make_folder(folder: Path, network: str, resume: bool) -> None:
    """Make the folder of a sweep without any flip, which runs no campaign; raises RunError for one that holds others."""
    own = {file.name for file in _all_files(folder, network)}
    if folder.is_dir():
        found = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
        if found & own and not resume:
            raise RunError(f"{folder}: holds a sweep already; write it again with --resume or choose another --out")
        if has_store(folder) or found - own:
            raise RunError(f"{folder}: holds files that are not this sweep's; choose another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot make the run directory: {error.strerror}; choose another --out") from None


def _measured(setup: Setup, plan: SweepPlan, golden: Golden, run: Path) -> Sweep:
    shares = _measure(golden, plan.injections, run)
    points = tuple((point, shares[point.injection]) for point in plan.points)
    return Sweep(
        run=run,
        network=setup.model.name,
        dataset=setup.dataset.name,
        bits=plan.bits,
        inputs=len(golden.scores),
        golden=shares[""],
        points=points,
        rows=tuple(_rows(points)),
    )


def _measure(golden: Golden, injections: Iterable[Injection], run: Path) -> dict[str, Shares]:
    """Return the shares of every injection by id, and the golden ones for no injection (an empty id).

    Over inputs that an injection has no fault for, it did not run: there the golden run stands for it.
    """
    total = len(golden.scores)
    applies = judge(golden, golden.scores).counts
    flags = golden.flags[[COUNTS.index(name) for name in SWEEP_MEASURES]]

    def shares(counts: Iterable[int | None]) -> Shares:
        named = zip(SWEEP_MEASURES, counts, strict=True)
        return {name: None if applies[name] is None else (count or 0) / total for name, count in named}

    clean = flags.sum(axis=1)
    found = {"": shares(clean.tolist())}
    ran = _counts(run) if (injections := tuple(injections)) else {}
    for injection in injections:
        inputs, *counts = ran[injection.id]
        if inputs < total:
            over = sorted({fault.input for fault in injection.faults if fault.input is not None})
            assert inputs == len(over), injection.id
            rest = (clean - flags[:, over].sum(axis=1)).tolist()
            counts = [(count or 0) + others for count, others in zip(counts, rest, strict=True)]
        found[injection.id] = shares(counts)
    return found


def _counts(run: Path) -> dict[str, tuple[int, ...]]:
    """Return by injection id its number of inputs and its counts of `SWEEP_MEASURES` (None where one does not apply)."""
    with reading(run) as store:
        return dict(store.counts_per_injection(("inputs", *SWEEP_MEASURES)))


def repeat_interval(mean: Mean) -> tuple[float, float] | None:
    """Return the interval of a mean share at `CONFIDENCE_LEVEL`; None for one repeat, which has no spread.

    Where all repeats came out alike, Student's has no width. What is known then is that a repeat comes out otherwise with
    a probability of at most p, Clopper and Pearson's bound for none seen; its share is anything, so the mean moves by p.
    """
    if mean.n < 2:
        return None
    unseen = upper_share(0, mean.n, (1 + CONFIDENCE_LEVEL) / 2)
    low, high = mean.interval(CONFIDENCE_LEVEL) if mean.se else (mean.mean - unseen, mean.mean + unseen)
    return max(low, 0.0), min(high, 1.0)


def _rows(points: Iterable[tuple[SweepPoint, Shares]]) -> Iterator[RateSummary]:
    """Yield the rates; ``points`` ascend by rate."""
    for rate, group in groupby(points, key=lambda entry: entry[0].rate):
        of_rate = list(group)
        flips = np.array([point.flips for point, _ in of_rate], np.float64)
        means = {name: _mean([shares[name] for _, shares in of_rate]) for name in SWEEP_MEASURES}
        yield RateSummary(rate, len(flips), int(np.count_nonzero(flips)), float(flips.mean()), means)


def _mean(values: Sequence[float | None]) -> Mean | None:
    known = [value for value in values if value is not None]
    return clustered_mean(np.array(known)) if known else None


def _files(run: Path, network: str) -> tuple[Path, Path]:
    if network == "results":
        raise RunError("results.onnx: the sweep's results.csv would be the campaign's; give the model another name")
    return run / f"{network}.csv", run / f"detail-{network}.csv"


def _all_files(run: Path, network: str) -> tuple[Path, ...]:
    """Return what a sweep writes beside its campaign, the figures included."""
    return (*_files(run, network), *(run / f"{network}{suffix}" for suffix in (".svg", ".png")))


def _write(sweep: Sweep, seed: int) -> None:
    """Write both files of a sweep, whose ``seed`` and repeat find a point again."""
    summary, detail = sweep.files
    with replacing(summary) as file:
        writer = csv.writer(file, lineterminator="\n")
        bounds = [f"{name}{end}" for name in SWEEP_MEASURES for end in ("", "_low", "_high")]
        writer.writerow(("rate", "repeats", "repeats_with_flips", "flips", *bounds))
        golden = [value for name in SWEEP_MEASURES for value in (sweep.golden[name], None, None)]
        writer.writerow((0, 0, 0, 0, *golden))
        for row in sweep.rows:
            means = [value for name in SWEEP_MEASURES for value in mean_with_interval(row.means[name])]
            writer.writerow((row.rate, row.repeats, row.flipped, row.flips, *means))
    with replacing(detail) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("rate", "repeat", "seed", "flips", "injection", *SWEEP_MEASURES))
        writer.writerow((0, None, None, 0, None, *sweep.golden.values()))
        for point, shares in sweep.points:
            writer.writerow((point.rate, point.repeat, seed, point.flips, point.injection, *shares.values()))


def mean_with_interval(mean: Mean | None) -> tuple[float | None, float | None, float | None]:
    """Return a mean and its interval for a file; None for what there is not."""
    return (None, None, None) if mean is None else (mean.mean, *(repeat_interval(mean) or (None, None)))
