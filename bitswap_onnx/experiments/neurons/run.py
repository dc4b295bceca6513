"""Random transient faults in neurons: one random neuron and one random bit of every layer for each input of a dataset.

Each layer has one injection per trial, which has one fault for each input. An injection's draws depend on the seed, its
layer and its trial alone (`draw_neuron_faults`), not on which other layers or trials run.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack, get_args

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.campaign.keywords import SharedKeywords, with_keywords
from bitswap_onnx.campaign.options import Record, RunOptions
from bitswap_onnx.campaign.reach import leave_out_unreachable
from bitswap_onnx.campaign.run import default_run, prepare_run, run_campaign
from bitswap_onnx.campaign.run_directory import reading
from bitswap_onnx.campaign.settings import Settings, for_neurons
from bitswap_onnx.campaign.setup import Setup
from bitswap_onnx.campaign.store import Store
from bitswap_onnx.errors import BitswapError, ControlFailedError, DataError, ModelError, check_choice
from bitswap_onnx.experiments.neurons.report import (
    write_misclassifications,
    write_neuron_report,
)
from bitswap_onnx.experiments.neurons.results import LayerShares, NeuronCampaign, TargetLayer, neuron_files
from bitswap_onnx.experiments.sweep.bit_errors import MAX_FAULTS, BitRegion
from bitswap_onnx.faults.fault import BitOrder, Injection, Site
from bitswap_onnx.faults.numerals import numbers_in, whole
from bitswap_onnx.graph.site_choice import select_sites
from bitswap_onnx.graph.sites import NeuronSite, find_sites
from bitswap_onnx.graph.tensors import stored_tensors
from bitswap_onnx.outcome import CRITICAL, decode_outcomes
from bitswap_onnx.stats.proportion import Proportion, proportion

#: Called with the network's name and the chosen layers before anything runs.
OnLayers = Callable[[str, Sequence[TargetLayer]], None]


@dataclass(frozen=True)
class NeuronPlan:
    """``trials`` of each of the ``layers`` over the first ``inputs`` of the dataset; ``bit`` None: a random bit.

    ``bit_order``: bit 0 is the least significant (``lsb``) or the sign (``msb``).
    """

    layers: tuple[TargetLayer, ...]
    inputs: int
    trials: int
    bit: int | None
    seed: int
    bit_order: BitOrder = "lsb"

    @property
    def injections(self) -> tuple[Injection, ...]:
        """One injection per layer and trial."""
        return tuple(draw_neuron_faults(layer, trial, self) for layer in self.layers for trial in range(self.trials))

    @property
    def description(self) -> str:
        """One line for people: what is about to run."""
        factors = {"layers": len(self.layers), "inputs": self.inputs, "trials": self.trials}
        counts = " x ".join(f"{count} {name[:-1] if count == 1 else name}" for name, count in factors.items())
        return f"neuron faults: {counts} = {math.prod(factors.values()):,}, seed {self.seed}"


def run_neurons(
    model: object,
    data: object = None,
    *,
    layers: str | None = None,
    layer_type: str | None = None,
    exclude: str | None = None,
    numbers: Collection[int] | str | None = None,
    bit: int | None = None,
    bit_order: BitOrder = "lsb",
    trials: int = 1,
    drop_last: bool = False,
    detailed_log: bool = False,
    on_layers: OnLayers | None = None,
    settings: Settings = Settings(),
    options: RunOptions = RunOptions(),
    **keywords: Unpack[SharedKeywords],
) -> NeuronCampaign:
    """Flip a random bit (or ``bit``) of a random neuron per layer and input; count the outcomes.

    ``bit_order``: ``bit`` 0 is the least significant (``lsb``) or the sign (``msb``).
    ``model``, ``data`` and ``keywords`` are as in `run_campaign`. ``layers``, ``layer_type``, ``numbers`` (also as text,
    ``0,2``) and ``exclude`` choose layers as in `choose_layers`. Each layer and input has
    ``trials`` draws. ``drop_last`` leaves out the inputs of the last batch if it is not full. ``settings.seed`` seeds the
    draws; with `FROM_CLOCK` the seed itself is drawn, and `NeuronCampaign.seed` holds it. ``detailed_log`` writes a file
    with every misclassification. ``on_layers`` is called before the campaign starts. ``options`` is as in `run_campaign`;
    the files of `NeuronCampaign.files` go into its run directory.

    Raises BitswapError as `choose_layers`, `plan_neurons` and `run_campaign` do.
    """
    settings, options = with_keywords(data, settings, options, keywords)
    if isinstance(numbers, str):
        numbers = numbers_in("numbers", numbers, whole)
    setup = prepare_run(model, for_neurons(settings), options)
    setup, chosen = choose_layers(setup, layers, layer_type, numbers, exclude)
    plan = plan_neurons(setup, chosen, setup.seed, trials, bit, drop_last, bit_order)
    folder = options.folder or default_run(setup)
    if on_layers:
        on_layers(setup.model.name, plan.layers)
    if options.on_notes:
        options.on_notes([plan.description])
    records: tuple[Record, ...] = ("per_input", "scores") if detailed_log else ("per_input",)
    try:
        own_options = replace(options, run=folder, records=records, experiment="neurons")
        run_campaign(setup, plan.injections, options=own_options)
    except ControlFailedError:  # files from before this resume are wrong too
        for file in neuron_files(folder, setup.model.name, setup.dataset.name, plan.seed):
            file.unlink(missing_ok=True)
        raise
    return _report(setup, plan, folder, detailed_log)


def choose_layers(
    setup: Setup,
    layers: str | None = None,
    layer_type: str | None = None,
    numbers: Collection[int] | None = None,
    exclude: str | None = None,
) -> tuple[Setup, tuple[TargetLayer, ...]]:
    """Return the layers whose output is hit: `select_sites` chooses by name and type, then ``numbers`` among these.

    Numbers start from 0, in the order of the chosen layers; without names and types, number 0 is the model's input.
    Layers that faults cannot reach are left out, and a note of the returned setup names them
    (`bitswap_onnx.campaign.reach`). Raises ModelError as `select_sites` and `leave_out_unreachable` do, and for a number
    without a layer.
    """
    every = [site for site in find_sites(setup.slicer) if site.site is Site.OUTPUT]
    candidates = select_sites(every, layers, layer_type, exclude=exclude)
    wrong = next((number for number in numbers or () if not 0 <= number < len(candidates)), None)
    if wrong is not None:
        raise ModelError(
            f"`numbers`: there is no layer {wrong}; layers to choose from: {len(candidates)}, "
            f"numbered 0-{len(candidates) - 1}"
        )
    chosen = {number: site for number, site in enumerate(candidates) if numbers is None or number in numbers}
    if not chosen:
        return setup, ()
    setup, open_sites = leave_out_unreachable(setup, tuple(chosen.values()))
    stored = stored_tensors(setup.model.proto)
    weights = {number: site.weight and tuple(stored[site.weight].dims) for number, site in chosen.items()}
    return setup, tuple(
        TargetLayer(number, site, weights[number] or None) for number, site in chosen.items() if site in open_sites
    )


def plan_neurons(
    setup: Setup,
    layers: tuple[TargetLayer, ...],
    seed: int,
    trials: int = 1,
    bit: int | None = None,
    drop_last: bool = False,
    bit_order: BitOrder = "lsb",
) -> NeuronPlan:
    """Return the checked plan.

    Raises BitswapError for another ``bit_order``, fewer than one trial, no layers, a ``bit`` that a layer's format does
    not have, fewer inputs than one batch with ``drop_last``, and more than `MAX_FAULTS` faults.
    """
    check_choice("bit_order", bit_order, get_args(BitOrder))
    if trials < 1:
        raise BitswapError(f"`trials`: expected a positive number, found {trials}")
    if not layers:
        raise BitswapError("`numbers`: expected at least one number, found none")
    for site in (layer.site for layer in layers):
        if bit is not None and not 0 <= bit < site.format.width:
            raise BitswapError(
                f"`bit` {bit} is outside {site.dtype} (0-{site.format.width - 1}), the output format of {site.layer}; "
                "choose another bit or other `layers`"
            )
    inputs, batch = len(setup.dataset), setup.numerics.batch_size
    if drop_last:
        if inputs < batch:
            raise DataError(
                f"`drop_last`: {inputs} inputs are fewer than one batch of {batch}; leave it out or choose a smaller "
                "`batch_size`"
            )
        inputs -= inputs % batch
    faults = len(layers) * trials * inputs
    if faults > MAX_FAULTS:
        raise BitswapError(
            f"`trials` {trials}: {len(layers)} layers and {inputs} inputs would have {faults:,} faults, more than "
            f"{MAX_FAULTS:,}; take fewer trials or layers, or limit the inputs with `first`"
        )
    return NeuronPlan(layers, inputs, trials, bit, seed, bit_order)


def draw_neuron_faults(layer: TargetLayer, trial: int, plan: NeuronPlan) -> Injection:
    """Draw one fault per input: a uniform neuron of the layer's output, and a uniform bit of its format or ``plan.bit``.

    Both are drawn, input by input, from ``SeedSequence(seed, spawn_key=(trial, number))``, where the layer's name
    decides the number (`NeuronSite.number`). So a draw does not change with other layers, more trials, more inputs
    behind it or a fixed bit.
    """
    site = layer.site
    rng = np.random.default_rng(np.random.SeedSequence(plan.seed, spawn_key=(trial, layer.site.number)))
    elements, bits = rng.integers([site.elements, site.format.width], size=(plan.inputs, 2)).T
    region = BitRegion(site.layer, site.shape, site.format.width, site=site.site, inputs=plan.inputs)
    neurons = np.arange(plan.inputs) * site.elements + elements
    positions = neurons * site.format.width + (bits if plan.bit is None else _counted(plan.bit, plan.bit_order, site))
    return Injection(layer.injection(trial), tuple(region.faults(positions)))


def _counted(bit: int, order: BitOrder, site: NeuronSite) -> int:
    """Return a bit of a layer's output, counted from the least significant."""
    return site.format.width - 1 - bit if order == "msb" else bit


def _report(setup: Setup, plan: NeuronPlan, run: Path, detailed: bool) -> NeuronCampaign:
    """Read the outcomes of the finished campaign, and write its files."""
    golden = setup.clean_run().golden.take(slice(plan.inputs))
    correct = None if golden.labels is None else golden.top_1 == golden.labels
    with reading(run) as store:
        critical, nonfinite = _outcomes(store, plan)
        rows = [_row(layer, critical[i], nonfinite[i], correct) for i, layer in enumerate(plan.layers)]
        rows.append(_row(None, critical.reshape(-1, plan.inputs), nonfinite.reshape(-1, plan.inputs), correct))
        campaign = NeuronCampaign(
            run=run,
            network=setup.model.name,
            dataset=setup.dataset.name,
            seed=plan.seed,
            inputs=plan.inputs,
            trials=plan.trials,
            bit=plan.bit,
            bit_order=plan.bit_order,
            correct=None if correct is None else int(correct.sum()),
            rows=tuple(rows),
            is_classifier=golden.criterion.needs_classes,
            detailed=detailed,
        )
        write_neuron_report(campaign)
        if detailed:
            wrong = critical if correct is None else critical & correct
            write_misclassifications(campaign, store, golden, wrong, setup.numerics.batch_size)
    return campaign


def _outcomes(store: Store, plan: NeuronPlan) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which inferences were critical and which nonfinite, each (layers, trials, inputs)."""
    shape = len(plan.layers), plan.trials, plan.inputs
    critical, nonfinite = np.empty(shape, np.bool_), np.empty(shape, np.bool_)
    for i, layer in enumerate(plan.layers):
        for trial in range(plan.trials):
            codes, nonfinite[i, trial] = decode_outcomes(store.outcomes_of(layer.injection(trial)))
            critical[i, trial] = codes == CRITICAL
    return critical, nonfinite


def _row(
    layer: TargetLayer | None,
    critical: NDArray[np.bool_],
    nonfinite: NDArray[np.bool_],
    correct: NDArray[np.bool_] | None,
) -> LayerShares:
    """Return the shares of outcomes (trials, inputs). A golden-correct input is misclassified if and only if critical."""
    misclassified: Proportion | None = None if correct is None else proportion(critical[:, correct].T)
    return LayerShares(layer, misclassified, proportion(critical.T), proportion(nonfinite.T))
