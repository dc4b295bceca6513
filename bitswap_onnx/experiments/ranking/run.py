"""Rankings of layers for selective monitoring: faults in one layer at a time, then a score for each ranking."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Unpack

import numpy as np

from bitswap_onnx.campaign.keywords import Keywords, with_keywords
from bitswap_onnx.campaign.options import Record, RunOptions
from bitswap_onnx.campaign.reach import leave_out_unreachable
from bitswap_onnx.campaign.run import default_run, prepare_run, run_campaign
from bitswap_onnx.campaign.settings import Settings, for_neurons
from bitswap_onnx.campaign.setup import Setup, prepare
from bitswap_onnx.errors import BitswapError, ControlFailedError, ModelError, nearest
from bitswap_onnx.experiments.ranking.builtin import BUILTIN_RANKINGS
from bitswap_onnx.experiments.ranking.layer_faults import (
    LayerOutcomes,
    RankingSite,
    draw_layer_faults,
    read_layer_outcomes,
)
from bitswap_onnx.experiments.ranking.ranking_file import GivenRanking, RankingForm, read_ranking
from bitswap_onnx.experiments.ranking.residual_risk import residual_risk
from bitswap_onnx.experiments.ranking.results import (
    LayerRobustness,
    RankingComparison,
    Robustness,
    ScoredRanking,
    ranking_files,
)
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

#: Trials by default. Each input has its own neuron faults, while a fault in a weight is one unit for all inputs.
DEFAULT_TRIALS: dict[RankingSite, int] = {"neurons": 1, "weights": 200}

#: By default, the overlap of the first quarter of the layers is compared.
_TOP_PART = 4


def evaluate_robustness(
    model: object,
    data: object = None,
    *,
    rankings: Mapping[str, str | Path | Sequence[str]] | None = None,
    form: RankingForm | None = None,
    builtin: Sequence[str] = BUILTIN_RANKINGS,
    where: RankingSite = "neurons",
    trials: int | None = None,
    evaluation_steps: int | None = None,
    layers: str | None = None,
    layer_type: str | None = None,
    exclude: str | None = None,
    top: int | None = None,
    settings: Settings = Settings(),
    options: RunOptions = RunOptions(),
    **keywords: Unpack[Keywords],
) -> Robustness:
    """Measure every layer of ``model`` under faults, and score ``rankings`` of the layers and the ``builtin`` rankings.

    ``model``, ``data`` and ``keywords`` are as in `run_campaign`. A ranking is a file (`read_ranking`, with its ``form``) or
    layer names, the most critical first. A fault flips one random bit of one random element: with ``where`` neurons of the
    layer's input tensor, drawn anew for each input and trial; with weights of its kernel. ``evaluation_steps``: the number
    of batches of inputs to use (default: all). ``layers``, ``layer_type`` and ``exclude`` choose layers as `select_sites`
    does; by default layers with kernels. Layers that faults cannot reach are left out, and a note says so. ``top``: the
    number of first layers whose overlap is compared (default: a quarter). ``settings.seed`` seeds the faults, the random
    ranking and the bootstraps.

    Raises BitswapError as `run_campaign`, `select_sites` and `read_ranking` do, and for fewer than two layers.
    """
    settings, options = with_keywords(data, settings, options, keywords)
    trials = DEFAULT_TRIALS[where] if trials is None else trials
    builtin = _checked(builtin, where, trials)
    setup = _prepare(model, settings, where, evaluation_steps, options)
    setup, sites = _sites(setup, layers, layer_type, exclude, where)
    given, ties = _given_rankings(rankings or {}, sites, form, options)
    run = options.folder or default_run(setup)
    parts = {"oracle": range(trials)} | ({"sensitivity": range(trials, 2 * trials)} if "sensitivity" in builtin else {})
    measurements = _measure(setup, sites, where, parts, replace(options, run=run))
    outcomes, learnt = measurements["oracle"], {name: part.correct for name, part in measurements.items()}
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


def _given_rankings(
    rankings: Mapping[str, str | Path | Sequence[str]],
    sites: Sequence[NeuronSite],
    form: RankingForm | None,
    options: RunOptions,
) -> tuple[dict[str, GivenRanking], list[str]]:
    """Return the rankings that a caller gave, and notes on equal ranks, which are also told."""
    given = {name: _given(name, ranking, sites, form) for name, ranking in rankings.items()}
    ties = [f"{name}: equal ranks keep the model's order: {', '.join(r.tied)}" for name, r in given.items() if r.tied]
    if options.on_notes and ties:
        options.on_notes(ties)
    return given, ties


def _measure(
    setup: Setup, sites: Sequence[NeuronSite], where: RankingSite, parts: Mapping[str, range], options: RunOptions
) -> dict[str, LayerOutcomes]:
    """Run one campaign of all trials; return the outcomes of each part of the trials."""
    run, trials = options.folder or Path(), max(part.stop for part in parts.values())
    records: tuple[Record, ...] = ("per_input",)
    try:
        injections = draw_layer_faults(setup, sites, where, trials, setup.seed)
        experiment = "rank" if where == "neurons" else None
        run_campaign(setup, injections, options=replace(options, records=records, experiment=experiment))
    except ControlFailedError:  # files from before this resume are wrong too
        for path in ranking_files(run, setup.model.name).values():
            path.unlink(missing_ok=True)
        raise
    if options.on_notes:
        options.on_notes(["scoring the rankings: bootstraps over all inputs"])
    labelled = setup.clean_run().golden.labels is not None
    return {name: read_layer_outcomes(run, len(sites), part, where, labelled) for name, part in parts.items()}


def _checked(builtin: Sequence[str], where: RankingSite, trials: int) -> tuple[str, ...]:
    names = tuple(part.strip() for part in builtin.split(",")) if isinstance(builtin, str) else tuple(builtin)
    for name in names:
        if name not in BUILTIN_RANKINGS:
            raise BitswapError(f"`builtin`: no ranking {name!r}; the nearest are {nearest(name, BUILTIN_RANKINGS)}")
    least = 2 if where == "weights" else 1  # one fault in a weight is one unit, which has no spread
    if trials < least:
        raise BitswapError(f"`trials`: expected at least {least} with `where` {where}, found {trials}")
    return names


def _prepare(model: object, settings: Settings, where: RankingSite, steps: int | None, options: RunOptions) -> Setup:
    setup = prepare_run(model, for_neurons(settings) if where == "neurons" else settings, options)
    if steps is None or steps * setup.batch_size >= len(setup.dataset):
        return setup
    first, limit = steps * setup.batch_size, settings.limit
    return prepare(setup.model, replace(setup.settings, first=None if limit else first, limit=first if limit else None))


def _sites(
    setup: Setup, layers: str | None, layer_type: str | None, exclude: str | None, where: RankingSite
) -> tuple[Setup, tuple[NeuronSite, ...]]:
    sites = select_sites(find_sites(setup.slicer), layers, layer_type, Site.INPUT, exclude)
    if layer_type is None and layers is None:
        sites = tuple(site for site in sites if site.role == "kernel") or sites
    if where == "weights":  # a weight that several layers share is ranked once
        sites = tuple({site.weight: site for site in reversed(sites)}.values())[::-1]
    else:
        setup, sites = leave_out_unreachable(setup, sites)
    if len(sites) < 2:
        names = ", ".join(site.layer for site in sites)
        raise ModelError(
            f"{setup.model.name}: expected at least 2 layers to rank, found {names}; choose more with `layers`"
        )
    return setup, sites


def _given(
    name: str, ranking: str | Path | Sequence[str], sites: Sequence[NeuronSite], form: RankingForm | None
) -> GivenRanking:
    if name in BUILTIN_RANKINGS:
        raise BitswapError(f"ranking {name}: a built-in ranking goes by this name; choose another")
    names = [site.layer for site in sites]
    if isinstance(ranking, str | Path):
        return read_ranking(ranking, names, form)
    for layer in ranking:
        if layer not in names:
            raise BitswapError(f"ranking {name}: unknown layer {layer!r}; the nearest are {nearest(layer, names)}")
    if not ranking or len(set(ranking)) < len(ranking):
        raise BitswapError(f"ranking {name}: expected each layer once, found {', '.join(ranking) or 'none'}")
    return GivenRanking(np.array([names.index(layer) for layer in ranking], np.intp), "order")


def _layers(
    setup: Setup, sites: Sequence[NeuronSite], outcomes: LayerOutcomes, where: RankingSite
) -> tuple[LayerRobustness, ...]:
    costs = layer_costs(setup.slicer, sites)
    largest = largest_values(setup.clean_slicer, setup.numerics, [site.value for site in sites], setup.pieces())
    targets = find_targets(setup.model)
    layers = []
    for number, site in enumerate(sites):
        kernel = kernel_of(site, targets) if where == "weights" else None
        bits = kernel.bits if kernel else site.elements * site.format.width
        shares = (float(values[number].mean()) for values in (outcomes.correct, outcomes.critical, outcomes.nonfinite))
        layers.append(LayerRobustness(number, site.kind, costs[number], bits, largest[number], *shares))
    return tuple(layers)


def _builtin(name: str, layers: Sequence[LayerRobustness], learnt: Mapping[str, Values], seed: int) -> LayerOrder:
    """Return a built-in ranking; equal layers keep their order. ``learnt``: correct shares (layers, units) to sort by."""
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
    macs = np.array([layer.cost.macs for layer in layers], np.float64)
    bits = np.array([layer.bits for layer in layers], np.float64)
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
    """Compare all rankings pairwise. A ``learnt`` ranking is ordered anew in each bootstrap draw of its units."""
    compared = []
    rankings = {
        entry.name: RankingFromInputs(learnt[entry.name]) if entry.name in learnt else entry.order for entry in ranked
    }
    for a, b in combinations(ranked, 2):
        if len(np.intersect1d(a.order, b.order)) < 2:  # nothing to compare
            continue
        first = min(len(a.order), len(b.order), top or max(1, round(len(outcomes.correct) / _TOP_PART)))
        rng = np.random.default_rng(seed)
        difference = None if "oracle" in (a.name, b.name) else score_difference(a.order, b.order, outcomes.correct, rng)
        agreement = rank_agreement(rankings[a.name], rankings[b.name], first, rng)
        compared.append(RankingComparison(a.name, b.name, agreement, difference))
    return compared
