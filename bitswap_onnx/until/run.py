"""Campaigns that run until a share is known well enough: drawn in rounds, each planned from the outcomes before it."""

import csv
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from bitswap_onnx.campaign.adaptive_list import Addition
from bitswap_onnx.campaign.executor import Running
from bitswap_onnx.campaign.records import InterimEstimate
from bitswap_onnx.campaign.run import Campaign, as_begun, run_campaign
from bitswap_onnx.campaign.run_directory import reading
from bitswap_onnx.campaign.setup import Settings, Setup, prepare
from bitswap_onnx.campaign.store import Store
from bitswap_onnx.errors import BitswapError
from bitswap_onnx.estimates.frames import RECORD, interim_estimates_of, rounds_of
from bitswap_onnx.estimates.rates import shares_of
from bitswap_onnx.estimates.read import read_counts
from bitswap_onnx.faults.fault import Kind
from bitswap_onnx.files import replacing
from bitswap_onnx.outcome import counted
from bitswap_onnx.sampling.input_blocks import PerInjection, sample_inputs
from bitswap_onnx.sampling.population import find_population
from bitswap_onnx.sampling.rounds import Round, choose_strata, injections_of_last
from bitswap_onnx.sampling.strata import Pattern, Region, bit_group, parts_of, stratify
from bitswap_onnx.until.goal import Goal, is_reached
from bitswap_onnx.until.planners import SCHEMES, Planner, UntilScheme, add_round, interim_estimate

#: What strata are called: bits of regions that get the same name.
_NAMES: dict[UntilScheme, Callable[[Region, int], str]] = {
    "stratified": lambda region, bit: f"{region.layer} {bit_group(region.format, bit)}",
    "iterative": lambda region, bit: "network",
}


@dataclass(frozen=True, kw_only=True)
class Until:
    """What is to be known of which faults: a ``goal``, a ``scheme``, and filters as `find_population` takes them."""

    goal: Goal
    scheme: UntilScheme = "stratified"
    kinds: tuple[Kind, ...] = (Kind.FLIP,)
    layers: str | None = None
    exclude: str | None = None
    parameters: str = "weight"
    bits: str | None = None

    def __post_init__(self) -> None:
        Pattern(self.kinds)  # refuses wrong ones


@dataclass(frozen=True)
class Reached:
    """A finished campaign, what was known after each of its rounds, and whether every fault there is has run."""

    campaign: Campaign
    until: Until
    interim_estimates: tuple[InterimEstimate, ...]
    is_census: bool


class DrawnList:
    """The fault list of such a campaign: decided by scheme, filters, seed and the outcomes; the goal says when it ends.

    ``own_inputs``: faults run over inputs of their own, and are drawn with replacement, for to know what one fault does
    there is not to know its share.
    """

    def __init__(
        self,
        setup: Setup,
        until: Until,
        on_interim_estimate: Callable[[InterimEstimate], None] | None = None,
        *,
        own_inputs: bool = False,
    ) -> None:
        _check_quantity(setup, until.goal.quantity)
        self.setup, self.until, self.on_interim_estimate, self.with_replacement = (
            setup,
            until,
            on_interim_estimate,
            own_inputs,
        )
        regions = find_population(setup.model, until.layers, until.exclude, until.parameters, until.bits)
        self.pattern = Pattern(until.kinds)
        self.strata = stratify(regions, _NAMES[until.scheme])
        self.populations = [self.pattern.population(stratum.slots) for stratum in self.strata]
        self._planner, self._rounds, self._draws = self.planner(), 0, 0
        record = {
            "scheme": until.scheme,
            "kinds": list(until.kinds),
            "seed": setup.seed,
            "again": own_inputs,
            "strata": [stratum.name for stratum in self.strata],
            "populations": self.populations,
            "parts": parts_of(self.strata, self.pattern),
            "rounds": [],
            "looks": [],
        }
        self.pilot = self._with(record, self._planner.begin())

    @property
    def name(self) -> str:
        """What stands for the list's file name."""
        return f"drawn, {self.until.scheme}, seed {self.setup.seed}"

    @property
    def identity(self) -> str:
        """The hash of all that decides which faults come, whenever it ends."""
        drawn = {key: value for key, value in asdict(self.until).items() if key != "goal"}
        drawn["seed"] = self.setup.seed
        return hashlib.sha256(json.dumps(drawn, sort_keys=True).encode()).hexdigest()

    @property
    def settings(self) -> dict[str, Any]:
        """What a store has of the pilot."""
        return self.pilot.settings

    def more(self, store: Store) -> Addition | None:
        """Take in the round that has run, and return the next, or None where the goal is reached or nothing is left."""
        record, goal = store.setting(RECORD), self.until.goal
        inferences = self._take(record, store)
        found = interim_estimate(self._planner, goal, self._rounds, inferences)
        if record["looks"][-1:] != [found._asdict()]:
            record["looks"].append(found._asdict())
            if self.on_interim_estimate:
                self.on_interim_estimate(found)
        if is_reached(found, goal) or self.is_census:
            store.put(RECORD, record)
            return None
        return self._with(record, self._planner.go_on())

    @property
    def is_census(self) -> bool:
        """Whether every fault there is has run, over all inputs."""
        return not self._planner.ledger.left.any()

    def write(self, store: Store, path: Path) -> None:
        """Write what was known after each round."""
        with replacing(path) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(InterimEstimate._fields)
            writer.writerows(interim_estimates_of(store.setting(RECORD)))

    def planner(self) -> Planner:
        """Return a planner that has seen nothing yet."""
        groups = [bit_group(stratum.regions[0].format, stratum.regions[0].bits[0]) for stratum in self.strata]
        family = np.unique(groups, return_inverse=True)[1]
        populations = np.array(self.populations, np.float64)
        return SCHEMES[self.until.scheme](populations, family, self.until.goal, with_replacement=self.with_replacement)

    def _take(self, record: dict[str, Any], store: Store) -> int:
        """Hand the rounds that the planner has not seen to it; return how many inferences there were in all."""
        inputs, counts = read_counts(store)
        values = shares_of(inputs, counts)[self.until.goal.quantity]
        drawn = choose_strata(
            rounds_of(record), self.populations, self.setup.seed, with_replacement=self.with_replacement
        )
        for pieces, one in list(zip(drawn, record["rounds"], strict=True))[self._rounds :]:
            size = sum(len(piece.strata) for piece in pieces)
            add_round(self._planner, pieces, values[self._draws : self._draws + size], one["margin"])
            self._rounds, self._draws = self._rounds + 1, self._draws + size
        return int(inputs.sum())

    def _with(self, record: dict[str, Any], one: Round) -> Addition:
        record["rounds"].append({**asdict(one), "margin": self.until.goal.margin})
        drawn = injections_of_last(
            rounds_of(record), self.strata, self.pattern, self.setup.seed, with_replacement=self.with_replacement
        )
        return Addition(drawn, {RECORD: record, "growing": True})


def run_until(
    model: str | Path,
    until: Until,
    *,
    settings: Settings = Settings(),
    inputs_per_injection: PerInjection = None,
    save_outputs: bool = False,
    per_input: bool = False,
    on_interim_estimate: Callable[[InterimEstimate], None] | None = None,
    **running: Unpack[Running],
) -> Reached:
    """Run faults of ``model``, drawn with the settings' seed, until the goal is reached or all have run.

    The run directory also gets ``until.csv``: what was known after each round. With ``resume``, a finished run goes on
    towards another margin or confidence; intervals hold all the same. Raises what `bitswap_onnx.campaign.run.run_campaign`
    raises, and BitswapError for a quantity that the model's outcomes do not have.
    """
    settings = as_begun(settings, running.get("run")) if running.get("resume") else settings
    setup = prepare(Path(model), settings)
    sample = sample_inputs(inputs_per_injection, len(setup.dataset), setup.numerics.batch_size, setup.seed)
    drawn = DrawnList(setup, until, on_interim_estimate, own_inputs=sample.length is not None)
    campaign = run_campaign(
        setup,
        drawn.pilot.injections,
        growth=drawn,
        inputs_per_injection=inputs_per_injection,
        save_outputs=save_outputs,
        per_input=per_input,
        **running,
    )
    with reading(campaign.run) as store:
        interim_estimates = interim_estimates_of(store.setting(RECORD))
    return Reached(campaign, until, tuple(interim_estimates), drawn.is_census)


def _check_quantity(setup: Setup, quantity: str) -> None:
    one = np.ones(1, np.int64)
    known = shares_of(one, dict.fromkeys(counted(setup.tolerance, setup.dataset.labels is not None), one))
    if quantity not in known:
        raise BitswapError(f"--until: expected one of {', '.join(known)}, found {quantity!r}")
