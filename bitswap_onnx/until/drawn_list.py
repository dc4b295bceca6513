"""A fault list that is drawn in rounds until a goal is reached; each round is planned from the outcomes before it."""

import csv
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bitswap_onnx.campaign.adaptive_list import AdaptiveList, Addition
from bitswap_onnx.campaign.drawing_record import DrawingRecord
from bitswap_onnx.campaign.records import InterimEstimate
from bitswap_onnx.campaign.setup import Setup
from bitswap_onnx.campaign.store import Store
from bitswap_onnx.estimates.rates import shares_of
from bitswap_onnx.estimates.read import read_counts
from bitswap_onnx.faults.fault import Kind, parse_kinds
from bitswap_onnx.files import replacing
from bitswap_onnx.sampling.population import find_population, population_coverage
from bitswap_onnx.sampling.rounds import Round, choose_strata, injections_of_last
from bitswap_onnx.sampling.strata import Pattern, Region, bit_group, parts_of, stratify
from bitswap_onnx.until.goal import UntilScheme, is_reached, parse_goal
from bitswap_onnx.until.planners import SCHEMES, Planner, add_round, interim_estimate

#: The name of a bit's stratum in each scheme; bits with the same name are one stratum.
_STRATUM_NAMES: dict[UntilScheme, Callable[[Region, int], str]] = {
    "stratified": lambda region, bit: f"{region.layer} {bit_group(region.format, bit)}",
    "iterative": lambda region, bit: "network",
}


@dataclass(frozen=True, kw_only=True)
class Until:
    """Request for a campaign that draws its own faults: ``goal``, ``scheme`` of drawing, ``kinds`` of faults, filters.

    ``goal``: a `Goal`, or its text, ``critical±0.1%@99%``. ``kinds``: a tuple of `Kind`, or text like ``flip,stuck_at``.
    ``layers``, ``exclude``, ``parameters`` and ``bits`` are those of `find_population`. Raises BitswapError for kinds
    of faults that `Pattern` refuses.
    """

    goal: Any
    scheme: UntilScheme = "stratified"
    kinds: Any = (Kind.FLIP,)
    layers: str | None = None
    exclude: str | None = None
    parameters: str = "weight"
    bits: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.goal, str):
            object.__setattr__(self, "goal", parse_goal(self.goal))
        if isinstance(self.kinds, str):
            object.__setattr__(self, "kinds", parse_kinds(self.kinds))
        Pattern(self.kinds)  # raises for wrong kinds


class DrawnList(AdaptiveList):
    """A list whose faults follow from model, scheme, kinds, filters, seed, the outcomes so far, and each round's goal.

    Margin and confidence set the size of a round and the probabilities of its strata, and they end the list.
    ``own_inputs``: each fault runs over inputs drawn for it. Its outcomes then give an estimate of its share, not the
    share over all inputs, so faults are drawn with replacement.
    """

    def __init__(
        self,
        setup: Setup,
        until: Until,
        on_interim_estimate: Callable[[InterimEstimate], None] | None = None,
        *,
        own_inputs: bool = False,
    ) -> None:
        self.setup, self.until, self.with_replacement = setup, until, own_inputs
        self.on_interim_estimate = on_interim_estimate
        regions = find_population(setup.model, until.layers, until.exclude, until.parameters, until.bits)
        self.pattern, self.coverage = Pattern(until.kinds), population_coverage(setup.model, regions)
        self.strata = stratify(regions, _STRATUM_NAMES[until.scheme])
        self.populations = [self.pattern.population(stratum.slots) for stratum in self.strata]
        self._planner, self._rounds_seen, self._draws_seen = self.planner(), 0, 0
        nothing_drawn = DrawingRecord(
            scheme=until.scheme,
            kinds=until.kinds,
            seed=setup.seed,
            with_replacement=own_inputs,
            strata=tuple(stratum.name for stratum in self.strata),
            populations=tuple(self.populations),
            parts=parts_of(self.strata, self.pattern),
        )
        self.pilot = self._addition(nothing_drawn, self._planner.begin())

    @property
    def name(self) -> str:
        """The name that a run shows in place of the file name of a list."""
        return f"drawn, {self.until.scheme}, seed {self.setup.seed}"

    @property
    def identity(self) -> str:
        """The SHA-256 of scheme, kinds, filters and seed; not of the goal, so a run can be resumed with another one."""
        drawn = {key: value for key, value in asdict(self.until).items() if key != "goal"}
        drawn["seed"] = self.setup.seed
        return hashlib.sha256(json.dumps(drawn, sort_keys=True).encode()).hexdigest()

    def more(self, store: Store) -> Addition | None:
        """Read the outcomes of the last round and return the next one, None where the campaign ends."""
        record, goal = store.drawing, self.until.goal
        assert record is not None
        inferences = self._read_rounds(record, store)
        estimate = interim_estimate(self._planner, goal, self._rounds_seen, inferences)
        if record.interim_estimates[-1:] != (estimate,):
            record = record.with_estimate(estimate)
            if self.on_interim_estimate:
                self.on_interim_estimate(estimate)
        if is_reached(estimate, goal) or self.is_census:
            store.keep_drawing(record)
            return None
        return self._addition(record, self._planner.go_on())

    @property
    def is_census(self) -> bool:
        """Whether every fault of the population has run, over all inputs."""
        return not self._planner.ledger.left.any()

    def write(self, store: Store, path: Path) -> None:
        """Write the interim estimates to ``path``, a CSV with one row each."""
        record = store.drawing
        assert record is not None
        with replacing(path) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(InterimEstimate._fields)
            writer.writerows(record.interim_estimates)

    def planner(self) -> Planner:
        """Return a planner that has no outcomes yet."""
        bits = [(stratum.regions[0].format, stratum.regions[0].bits[0]) for stratum in self.strata]
        family = np.unique([bit_group(*bit) for bit in bits], return_inverse=True)[1]
        populations = np.array(self.populations, np.float64)
        scheme = SCHEMES[self.until.scheme]
        return scheme(populations, family, self.until.goal, with_replacement=self.with_replacement)

    def _read_rounds(self, record: DrawingRecord, store: Store) -> int:
        """Give the planner the rounds it has not seen; return the number of inferences of all rounds."""
        inputs, counts = read_counts(store)
        values = shares_of(inputs, counts)[self.until.goal.quantity]
        rounds = choose_strata(record.rounds, self.populations, self.setup.seed, with_replacement=self.with_replacement)
        for pieces, margin in list(zip(rounds, record.margins, strict=True))[self._rounds_seen :]:
            stop = self._draws_seen + sum(len(piece.strata) for piece in pieces)
            add_round(self._planner, pieces, values[self._draws_seen : stop], margin)
            self._rounds_seen, self._draws_seen = self._rounds_seen + 1, stop
        return int(inputs.sum())

    def _addition(self, record: DrawingRecord, planned: Round) -> Addition:
        """Return the injections of one more round, and the settings with it in the record."""
        record = record.with_round(planned, self.until.goal.margin)
        injections = injections_of_last(
            record.rounds, self.strata, self.pattern, self.setup.seed, with_replacement=self.with_replacement
        )
        return Addition(injections, record)
