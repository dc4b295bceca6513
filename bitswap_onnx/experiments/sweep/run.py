"""Accuracy against bit error rate: random bit errors at several rates, several times each, in one campaign.

At each rate every bit of the chosen weights and neurons flips independently (`bit_errors`). An error in a weight stays
for all inputs; neurons have errors of their own for every input.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Unpack

import numpy as np

from bitswap_onnx.campaign.keywords import Keywords, with_keywords
from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.run import default_run, prepare_run, run_campaign
from bitswap_onnx.campaign.run_directory import has_store, reading
from bitswap_onnx.campaign.settings import Settings, for_neurons
from bitswap_onnx.campaign.setup import Setup
from bitswap_onnx.errors import ControlFailedError, RunError
from bitswap_onnx.experiments.sweep.bit_errors import (
    SweepPlan,
    SweepPoint,
    SweepSite,
    find_regions,
    plan_sweep,
)
from bitswap_onnx.experiments.sweep.rates import DEFAULT_REPEATS, check_rates, parse_rates
from bitswap_onnx.experiments.sweep.report import write_sweep
from bitswap_onnx.experiments.sweep.results import SWEEP_MEASURES, RateSummary, Shares, Sweep, sweep_files
from bitswap_onnx.faults.fault import Injection
from bitswap_onnx.outcome import COUNTS, Golden, judge
from bitswap_onnx.stats.clustered import Mean, clustered_mean


def sweep_errors(
    model: object,
    rates: Iterable[float] | float | str,
    data: object = None,
    *,
    repeats: int = DEFAULT_REPEATS,
    layers: str | None = None,
    exclude: str | None = None,
    site: SweepSite = "weights",
    settings: Settings = Settings(),
    options: RunOptions = RunOptions(),
    **keywords: Unpack[Keywords],
) -> Sweep:
    """Flip bits of ``model`` at random at each of ``rates``, ``repeats`` times, and measure accuracy and outcomes.

    ``model``, ``data`` and ``keywords`` are as in `run_campaign`; ``rates`` are numbers, or text like ``1e-9:1e-5``.
    ``layers`` has comma-separated globs or parts of names: for ``site`` weights of layers and parameters, for neurons of
    layers with kernels, whose outputs are hit; for both, each pattern must match at least one of either. ``exclude`` leaves
    out layers in the same way. Neurons that faults cannot reach are left out, and a note says so. ``settings.seed`` seeds
    the draws; `plan_sweep` says what changes with another seed, repeat or rate. ``options`` is as in `run_campaign`, which
    runs every point that has flips; the files of `Sweep.files` go into its run directory.

    Raises BitswapError as `check_rates`, `plan_sweep`, `select_targets`, `select_sites` and `run_campaign` do.
    """
    rates = parse_rates(rates) if isinstance(rates, str) else check_rates(rates)
    settings, options = with_keywords(data, settings, options, keywords)
    setup = prepare_run(model, settings if site == "weights" else for_neurons(settings), options)
    setup, regions = find_regions(setup, layers, site, exclude)
    plan = plan_sweep(regions, rates, repeats, setup.seed)
    folder = options.folder or default_run(setup)
    if options.on_notes:
        options.on_notes([plan.description, *(() if plan.injections else setup.notes)])
    if plan.injections:
        here = replace(options, run=folder, experiment="sweep")
        _run(lambda: run_campaign(setup, plan.injections, options=here), sweep_files(folder, setup.model.name))
    golden = setup.clean_run(options.stop).golden
    if not plan.injections:
        _make_folder(folder, setup.model.name, options.resume)
    sweep = _measured(setup, plan, golden, folder)
    write_sweep(sweep, setup.seed)
    return sweep


def _run(campaign: Callable[[], object], files: Iterable[Path]) -> None:
    try:
        campaign()
    except ControlFailedError:  # files from before this resume are wrong too
        for file in files:
            file.unlink(missing_ok=True)
        raise


def _make_folder(folder: Path, network: str, resume: bool) -> None:
    """Make the folder of a sweep without any flip, which runs no campaign; raises RunError for a folder of other files."""
    sweep_names = {file.name for file in sweep_files(folder, network)}
    if folder.is_dir():
        names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
        if names & sweep_names and not resume:
            raise RunError(f"{folder}: holds a sweep already; write it again with `resume` or choose another `run`")
        if has_store(folder) or names - sweep_names:
            raise RunError(f"{folder}: holds files that are not this sweep's; choose another `run`")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot make the run directory: {error.strerror}; choose another `run`") from None


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
    """Return the shares of every injection by id, and the golden shares under the empty id.

    An injection runs only over inputs for which it has a fault; for the other inputs the golden outcomes count.
    """
    total = len(golden.scores)
    applies = judge(golden, golden.scores).counts
    flags = golden.flags[[COUNTS.index(name) for name in SWEEP_MEASURES]]

    def shares(counts: Iterable[int | None]) -> Shares:
        named = zip(SWEEP_MEASURES, counts, strict=True)
        return {name: None if applies[name] is None else (count or 0) / total for name, count in named}

    clean = flags.sum(axis=1)
    by_id = {"": shares(clean.tolist())}
    recorded = _counts(run) if (injections := tuple(injections)) else {}
    for injection in injections:
        inputs, *counts = recorded[injection.id]
        if inputs < total:
            hit = sorted({fault.input for fault in injection.faults if fault.input is not None})
            assert inputs == len(hit), injection.id
            unhit = (clean - flags[:, hit].sum(axis=1)).tolist()
            counts = [(count or 0) + golden_count for count, golden_count in zip(counts, unhit, strict=True)]
        by_id[injection.id] = shares(counts)
    return by_id


def _counts(run: Path) -> dict[str, tuple[int, ...]]:
    """Return the number of inputs and the counts of `SWEEP_MEASURES` by injection id, None for one that does not apply."""
    with reading(run) as store:
        return dict(store.counts_per_injection(("inputs", *SWEEP_MEASURES)))


def _rows(points: Iterable[tuple[SweepPoint, Shares]]) -> Iterator[RateSummary]:
    """Yield one summary per rate; ``points`` ascend by rate."""
    for rate, group in groupby(points, key=lambda entry: entry[0].rate):
        of_rate = list(group)
        flips = np.array([point.flips for point, _ in of_rate], np.float64)
        means = {name: _mean([shares[name] for _, shares in of_rate]) for name in SWEEP_MEASURES}
        yield RateSummary(rate, len(flips), int(np.count_nonzero(flips)), float(flips.mean()), means)


def _mean(values: Sequence[float | None]) -> Mean | None:
    known = [value for value in values if value is not None]
    return clustered_mean(np.array(known)) if known else None
