"""Rankings of layers for selective monitoring, measured: faults in one layer at a time, then how good each order is."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Unpack

import numpy as np

from bitswap_onnx.campaign.executor import Running
from bitswap_onnx.campaign.reach import without_shut
from bitswap_onnx.campaign.run import as_begun, default_run, run_campaign
from bitswap_onnx.campaign.setup import Settings, Setup, for_neurons, prepare
from bitswap_onnx.errors import BitswapError, ControlFailedError, ModelError, RunError, nearest
from bitswap_onnx.experiments.ranking.layer_faults import LayerOutcomes, RankingSite, draw_injections, read_outcomes
from bitswap_onnx.experiments.ranking.ranking_file import GivenRanking, RankingForm, read_ranking
from bitswap_onnx.experiments.ranking.residual_risk import residual_risk
from bitswap_onnx.experiments.ranking.results import (
    LayerRobustness,
    RankingComparison,
    Robustness,
    ScoredRanking,
    ranking_files,
)
from bitswap_onnx.faults.bits import FORMATS
from bitswap_onnx.faults.fault import Site
from bitswap_onnx.graph.costs import kernel_of, layer_costs
from bitswap_onnx.graph.site_choice import select_sites
from bitswap_onnx.graph.sites import NeuronSite, find_sites
from bitswap_onnx.graph.targets import find_targets
from bitswap_onnx.runtime.observe import largest_values
from bitswap_onnx.stats.intervals import Values
from bitswap_onnx.stats.rankings import (
    LayerOrder,
    RankingFromInputs,
    rank_agreement,
    s_curve,
    score_difference,
    score_ranking,
)

#: The rankings that need no file. Layers that are first: the earliest, the latest, ...; those with the most parameters,
#: the most multiply-accumulates, the largest weights (norm, mean exponent), the widest range of activations; the most
#: sensitive to other faults on the same inputs; the most sensitive to the very faults that score it.
BUILTIN_RANKINGS = (
    *("index", "reverse", "random", "parameters", "macs", "weight-norm", "weight-exponent", "activation-range"),
    *("sensitivity", "oracle"),
)

#: Trials by default: each input has faults of its own, while a fault in a weight is one unit for all inputs.
DEFAULT_TRIALS: dict[RankingSite, int] = {"neurons": 1, "weights": 200}

#: The share of the layers that are first: their overlap is compared.
_TOP = 4


def evaluate_robustness(
    model: str | Path,
    rankings: Mapping[str, str | Path | Sequence[str]] | None = None,
    *,
    form: RankingForm | None = None,
    builtin: Sequence[str] = BUILTIN_RANKINGS,
    settings: Settings = Settings(),
    where: RankingSite = "neurons",
    trials: int | None = None,
    evaluation_steps: int | None = None,
    layers: str | None = None,
    kinds: str | None = None,
    exclude: str | None = None,
    top: int | None = None,
    **running: Unpack[Running],
) -> Robustness:
    """Measure every layer of ``model`` under faults and score ``rankings`` of them, and the ``builtin`` ones.

    A ranking is a file (`read_ranking`, with its ``form``) or layer names, the most critical first. Faults hit ``where``:
    one random bit of one random element of what the layer takes in, another for each input and trial; or of its kernel.
    ``evaluation_steps``: batches of inputs to use (default: all). ``layers``, ``kinds`` and ``exclude`` choose layers as
    `select_sites` does; by default those with kernels. Layers that faults cannot get at are left out, and a note says so.
    ``top``: how many first layers are compared (default: a quarter). ``settings.seed`` seeds faults, the shuffle and
    bootstraps. The rest is as in `run_campaign`.

    Raises BitswapError as `run_campaign`, `select_sites` and `read_ranking` do, and for fewer than two layers.
    """
    trials = DEFAULT_TRIALS[where] if trials is None else trials
    _check(builtin, where, trials, running)
    setup = _prepare(Path(model), settings, where, evaluation_steps, running)
    setup, sites = _sites(setup, layers, kinds, exclude, where)
    given = {name: _given(name, ranking, sites, form) for name, ranking in (rankings or {}).items()}
    ties = [f"{name}: equal ranks keep the model's order: {', '.join(r.tied)}" for name, r in given.items() if r.tied]
    if (on_notes := running.get("on_notes")) and ties:
        on_notes(ties)
    run = Path(running.get("run") or default_run(setup))
    parts = {"oracle": range(trials)} | ({"sensitivity": range(trials, 2 * trials)} if "sensitivity" in builtin else {})
    found = _measure(setup, sites, where, parts, settings.seed, running | Running(run=run))
    outcomes, learnt = found["oracle"], {name: each.correct for name, each in found.items()}
    measured = _layers(setup, sites, outcomes, where)
    orders = {name: ranking.order for name, ranking in given.items()}
    orders |= {name: _builtin(name, measured, learnt, settings.seed) for name in builtin}
    scored = tuple(_ranked(name, order, measured, outcomes, settings.seed) for name, order in orders.items())
    clean = setup.clean_run().golden
    return Robustness(
        run=run,
        network=setup.model.name,
        dataset=setup.dataset.name,
        where=where,
        inputs=len(setup.dataset),
        trials=trials,
        seed=settings.seed,
        golden=1.0 if clean.labels is None else float(np.mean(clean.top_1 == clean.labels)),
        labelled=clean.labels is not None,
        layers=measured,
        rankings=scored,
        pairs=tuple(_pairs(scored, outcomes, learnt, top, settings.seed)),
        notes=(*setup.notes, *ties),
    )


def _measure(
    setup: Setup,
    sites: Sequence[NeuronSite],
    where: RankingSite,
    parts: Mapping[str, range],
    seed: int,
    running: Running,
) -> dict[str, LayerOutcomes]:
    """Run one campaign of all trials; return what came out in each part of them."""
    run, trials = Path(running["run"] or ""), max(part.stop for part in parts.values())
    try:
        run_campaign(setup, draw_injections(setup, sites, where, trials, seed), records=["per_input"], **running)
    except ControlFailedError:  # what an earlier end of this run wrote is wrong
        for path in ranking_files(run, setup.model.name).values():
            path.unlink(missing_ok=True)
        raise
    labelled = setup.clean_run().golden.labels is not None
    return {name: read_outcomes(run, len(sites), part, where, labelled) for name, part in parts.items()}


def _check(builtin: Sequence[str], where: RankingSite, trials: int, running: Running) -> None:
    for name in builtin:
        if name not in BUILTIN_RANKINGS:
            raise BitswapError(f"--builtin: no ranking {name!r}; the nearest are {nearest(name, BUILTIN_RANKINGS)}")
    least = 2 if where == "weights" else 1  # of one unit nothing can be said
    if trials < least:
        raise BitswapError(f"--trials: expected at least {least} with --site {where}, found {trials}")
    if running.get("resume") and running.get("run") is None:
        raise RunError("--resume needs --out RUN: the run directory to continue")


def _prepare(path: Path, settings: Settings, where: RankingSite, steps: int | None, running: Running) -> Setup:
    if where == "neurons":
        settings = for_neurons(settings)
    if running.get("resume"):
        settings = as_begun(settings, running.get("run"))
    setup = prepare(path, settings)
    if steps is None or steps * setup.numerics.batch_size >= len(setup.dataset):
        return setup
    first, limit = steps * setup.numerics.batch_size, settings.limit
    return prepare(path, replace(settings, first=None if limit else first, limit=first if limit else None))


def _sites(
    setup: Setup, layers: str | None, kinds: str | None, exclude: str | None, where: RankingSite
) -> tuple[Setup, tuple[NeuronSite, ...]]:
    sites = select_sites(find_sites(setup.slicer), layers, kinds, Site.INPUT, exclude)
    if kinds is None and layers is None:
        sites = tuple(site for site in sites if site.role == "kernel") or sites
    if where == "weights":  # what several layers share is one of them
        sites = tuple({site.weight: site for site in reversed(sites)}.values())[::-1]
    else:
        setup, sites = without_shut(setup, sites)
    if len(sites) < 2:
        found = ", ".join(site.layer for site in sites)
        raise ModelError(
            f"{setup.model.name}: expected at least 2 layers to rank, found {found}; choose more with --layers"
        )
    return setup, sites


def _given(
    name: str, given: str | Path | Sequence[str], sites: Sequence[NeuronSite], form: RankingForm | None
) -> GivenRanking:
    if name in BUILTIN_RANKINGS:
        raise BitswapError(f"ranking {name}: a built-in ranking goes by this name; choose another")
    names = [site.layer for site in sites]
    if isinstance(given, str | Path):
        return read_ranking(given, names, form)
    for layer in given:
        if layer not in names:
            raise BitswapError(f"ranking {name}: unknown layer {layer!r}; the nearest are {nearest(layer, names)}")
    if not given or len(set(given)) < len(given):
        raise BitswapError(f"ranking {name}: expected each layer once, found {', '.join(given) or 'none'}")
    return GivenRanking(np.array([names.index(layer) for layer in given], np.intp), "order")


def _layers(
    setup: Setup, sites: Sequence[NeuronSite], outcomes: LayerOutcomes, where: RankingSite
) -> tuple[LayerRobustness, ...]:
    costs = layer_costs(setup.slicer, sites)
    largest = largest_values(setup.running_slicer, setup.numerics, [site.value for site in sites], setup.pieces())
    targets = find_targets(setup.model)
    layers = []
    for number, site in enumerate(sites):
        kernel = kernel_of(site, targets) if where == "weights" else None
        bits = kernel.elements * FORMATS[kernel.dtype].width if kernel else site.elements * site.format.width
        shares = (float(values[number].mean()) for values in (outcomes.correct, outcomes.critical, outcomes.nonfinite))
        layers.append(LayerRobustness(number, site.kind, costs[number], bits, largest[number], *shares))
    return tuple(layers)


def _builtin(name: str, layers: Sequence[LayerRobustness], learnt: Mapping[str, Values], seed: int) -> LayerOrder:
    """Return a built-in ranking; equal layers keep their order. ``learnt``: right answers (layers, units) to sort by."""
    if name in learnt:
        return np.argsort(learnt[name].mean(axis=1), kind="stable").astype(np.intp)
    values = {
        "index": [float(layer.number) for layer in layers],
        "reverse": [-float(layer.number) for layer in layers],
        "random": np.random.default_rng([seed, len(layers)]).permutation(len(layers)),
        "parameters": [-float(layer.cost.parameters) for layer in layers],
        "macs": [-float(layer.cost.macs) for layer in layers],
        "weight-norm": [-layer.cost.weight_norm for layer in layers],
        "weight-exponent": [-layer.cost.weight_exponent for layer in layers],
        "activation-range": [-layer.largest for layer in layers],
    }
    return np.argsort(np.asarray(values[name]), kind="stable").astype(np.intp)


def _ranked(
    name: str, order: LayerOrder, layers: Sequence[LayerRobustness], outcomes: LayerOutcomes, seed: int
) -> ScoredRanking:
    macs, bits = (np.array(values, np.float64) for values in zip(*((x.cost.macs, x.bits) for x in layers), strict=True))
    return ScoredRanking(
        name,
        order,
        score_ranking(order, outcomes.correct, np.random.default_rng(seed)),
        s_curve(outcomes.correct[order].mean(axis=1)),
        residual_risk(order, outcomes.critical.mean(axis=1), macs, bits),
    )


def _pairs(
    ranked: Sequence[ScoredRanking], outcomes: LayerOutcomes, learnt: Mapping[str, Values], top: int | None, seed: int
) -> list[RankingComparison]:
    """Compare all rankings with each other; one that was ``learnt`` is learnt anew in each draw of its units."""
    pairs = []
    rankings = {
        entry.name: RankingFromInputs(learnt[entry.name]) if entry.name in learnt else entry.order for entry in ranked
    }
    for one, other in combinations(ranked, 2):
        if len(np.intersect1d(one.order, other.order)) < 2:  # nothing to compare
            continue
        first = min(len(one.order), len(other.order), top or max(1, round(len(outcomes.correct) / _TOP)))
        rng = np.random.default_rng(seed)
        known = "oracle" in (one.name, other.name)
        difference = None if known else score_difference(one.order, other.order, outcomes.correct, rng)
        pairs.append(
            RankingComparison(
                one.name, other.name, rank_agreement(rankings[one.name], rankings[other.name], first, rng), difference
            )
        )
    return pairs
