"""Rates of a campaign with intervals, per network, layer, bit, bit class or layer and bit. The fault is the sampling unit.

A fault's share of its inputs is f = count / inputs; rates are means of f over faults, or shares of faults with f >= theta.
Rows of one table that ask the same of several groups (or of several theta) hold all together at the level asked for
(Bonferroni). Everything is conditional on the inputs run, unless each fault ran over inputs of its own, or the inputs are
said to be a sample too (`bitswap_onnx.stats.two_way`).
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.campaign.store_file import STORE_NAME
from bitswap_onnx.errors import BitswapError, RunError
from bitswap_onnx.estimates.frames import listed_strata
from bitswap_onnx.estimates.groups import ALL, SCOPES, Scope, groups
from bitswap_onnx.estimates.input_design import InputDesign, input_design
from bitswap_onnx.estimates.outcome_matrix import OutcomeMatrix, open_outcome_matrix
from bitswap_onnx.estimates.read import Recorded, read_recorded
from bitswap_onnx.stats.intervals import Values, bonferroni, fewest_faults
from bitswap_onnx.stats.stratified import Bounded, Estimate, Frame, Strata, Weights, frame_of, weigh, weighted_mean
from bitswap_onnx.stats.two_way import over_inputs

Nonfinite = Literal["as-is", "critical", "detected"]
_Counts = NDArray[np.number[Any]]

#: The scope of P(f >= theta) over several theta, for the network.
CURVE = "curve"
#: The quantity that is a share of faults, not of inferences; its theta stands beside it.
HARMFUL = "harmful_faults"

#: What counts as critical in each treatment of NaN and Inf scores: they as any other; always; never (detected, a DUE).
LEADING: dict[str, str] = {"as-is": "critical", "critical": "critical_or_nonfinite", "detected": "critical_finite"}

THETAS = (0.0, 0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.9)

_SHARES = ("non_critical", "masked", "nonfinite", "critical_nonfinite", "sdc_5", "sdc_10", "sdc_20")

_NO_DESIGN = (
    "no design of the list is known: injections count as a simple random sample of a far larger population, all with "
    "the same weight and without a population correction (--design names what faults generate wrote beside a list)"
)

_RUN_BESIDE = (
    "the file lies in its run directory, which may know how faults and inputs were drawn: estimate that instead"
)

_TOO_FEW = (
    "too few: had all those faults come out alike, their interval would still reach past one half; no estimate (of strata "
    "with faults of a group, none of which the list has, nothing is known)"
)

_APPROXIMATE = (
    "how many faults of some groups there are in each stratum is not known (injections of several faults, strata given "
    "without what they hold, or a file that does not tell bit classes): there sizes are estimated from the list, and "
    "intervals are approximate"
)

_TOO_FEW_INPUTS = "too few inputs for the level of some rows, even if all of them came out alike; no estimate there"

_UNKNOWN_GOLDEN = (
    "accuracy lost is left out: every fault was critical on some input, whose golden class is then not recorded"
)


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked: ``by`` scopes, at a confidence ``level``, with NaN and Inf scores treated as ``nonfinite`` says.

    ``theta``: a fault is harmful whose critical share reaches it; 0: that has any critical input at all. ``thetas``: where
    else the curve P(f >= theta) is asked for. ``over_inputs``: the inputs count as a sample too, like the faults.
    """

    by: tuple[Scope, ...] = ("network", "bit-class", "bit")
    level: float = 0.95
    nonfinite: Nonfinite = "as-is"
    theta: float = 0.0
    thetas: tuple[float, ...] = THETAS
    over_inputs: bool = False

    def __post_init__(self) -> None:
        unknown = [name for name in self.by if name not in SCOPES]
        if unknown or not self.by:
            raise BitswapError(f"--by: expected some of {','.join(SCOPES)}, found {','.join(unknown) or 'nothing'}")
        if not 0 < self.level < 1:
            raise BitswapError(f"--level: expected a confidence between 0 and 1, like 0.95, found {self.level}")
        if not 0 <= self.theta <= 1:
            raise BitswapError(f"--theta: expected a share of inputs from 0 to 1, found {self.theta}")

    @property
    def leading(self) -> str:
        """The quantity that counts as critical."""
        return LEADING[self.nonfinite]


@dataclass(frozen=True, slots=True)
class Rate:
    """One quantity over one group of injections, as fractions; ``level`` is this row's own, corrected for its table.

    ``mean`` and ``se`` (clustered by fault) are None where ``too_few`` faults say nothing; the interval says how little.
    ``theta`` belongs to `HARMFUL`.
    """

    scope: str
    group: str
    quantity: str
    theta: float | None
    faults: int
    mean: float | None
    se: float | None
    low: float
    high: float
    level: float
    too_few: bool


@dataclass(frozen=True, eq=False)
class Rates:
    """Rates of one source, about ``inputs``. ``tables``: how many rows each scope's level was divided among."""

    recorded: Recorded
    question: Question
    strata: Strata | None
    inputs: InputDesign
    rows: tuple[Rate, ...]
    tables: dict[str, int]
    notes: tuple[str, ...]

    def find(self, scope: str, group: str, quantity: str, theta: float | None = None) -> Rate:
        """Return one row; raises KeyError if there is none."""
        wanted = scope, group, quantity, theta
        for row in self.rows:
            if (row.scope, row.group, row.quantity, row.theta) == wanted:
                return row
        raise KeyError(wanted)


class _Sample(NamedTuple):
    """The injections' ``quantities``, what was asked; ``matrix``: if inputs are a sample too."""

    quantities: dict[str, Bounded]
    matrix: OutcomeMatrix | None
    question: Question


class _Asked(NamedTuple):
    """A group of a scope, the level of its rows, how its faults count, and whether they are too few."""

    scope: str
    group: str
    level: float
    weights: Weights
    too_few: bool


def estimate_rates(
    source: str | Path, question: Question = Question(), design: str | Path | Strata | None = None
) -> Rates:
    """Estimate the rates of a finished run directory or a results file; `read_recorded` says what is refused.

    ``design``: how its list was drawn, or the file that `generate_faults` wrote about that; None: what lay beside the list
    when it ran, or lies beside the file, if anything. Raises RunError where that is another list's, and for a treatment of
    nonfinite scores that nothing was counted for; if the inputs shall count as a sample, also where `open_outcome_matrix` refuses.
    """
    recorded = read_recorded(Path(source))
    strata = listed_strata(Path(source), design) or recorded.strata
    frame = frame_of(recorded.source, len(recorded), strata, recorded.own_inputs is not None)
    with open_outcome_matrix(Path(source)) if question.over_inputs else nullcontext() as matrix:
        sample = _Sample(_quantities(recorded, matrix), matrix, question)
        if question.leading not in sample.quantities:
            raise RunError(
                f"{source}: --nonfinite {question.nonfinite} needs the counts nonfinite and critical_nonfinite, which it "
                "has not"
            )
        asked = list(_groups(recorded, question, frame))
        rows = [row for one in asked for row in _rates(sample, one)]
        tables = dict(Counter(one.scope for one in asked))
        if matrix is None:
            curve = _curve(sample, asked[0].weights)
            tables[CURVE] = len(curve)
            rows += curve
    inputs = input_design(recorded, question.over_inputs)
    notes = (
        *recorded.notes,
        *([_NO_DESIGN] if strata is None else []),
        *([_RUN_BESIDE] if recorded.from_file and (Path(source).parent / STORE_NAME).is_file() else []),
        *inputs.notes,
        *_remarks(sample, recorded, asked),
    )
    return Rates(recorded, question, strata, inputs, tuple(rows), tables, notes)


def _groups(recorded: Recorded, question: Question, frame: Frame) -> Iterator[_Asked]:
    """Yield what is asked about, the network first."""
    for scope in dict.fromkeys(("network", *question.by)):
        found = list(groups(recorded, scope, frame))
        level = bonferroni(question.level, len(found))
        for name, member, held in found:
            weights = weigh(frame, member, held)
            yield _Asked(scope, name, level, weights, weights.too_few(level))


def _remarks(sample: _Sample, recorded: Recorded, asked: list[_Asked]) -> Iterator[str]:
    """Yield what only the numbers tell."""
    if any(one.weights.listed is not None for one in asked):
        yield _APPROXIMATE
    if any(one.too_few for one in asked):
        yield _TOO_FEW
    if sample.matrix is not None and any(sample.matrix.inputs < fewest_faults(one.level) for one in asked):
        yield _TOO_FEW_INPUTS
    if sample.matrix is not None and recorded.accuracy is not None and "accuracy_drop" not in sample.quantities:
        yield _UNKNOWN_GOLDEN


def shares_of(inputs: _Counts, counts: Mapping[str, _Counts]) -> dict[str, Values]:
    """Return the share of each fault's ``inputs`` (faults,) that each quantity has; what was not counted is absent.

    ``counts``: (faults,) each, by names of `bitswap_onnx.outcome.COUNTS`.
    """
    found = {"critical": counts["critical"]}
    if "nonfinite" in counts and "critical_nonfinite" in counts:
        finite = counts["critical"] - counts["critical_nonfinite"]
        found |= {"critical_or_nonfinite": finite + counts["nonfinite"], "critical_finite": finite}
    found |= {name: counts[name] for name in _SHARES if name in counts}
    return {name: np.asarray(count / inputs, np.float64) for name, count in found.items()}


def _quantities(recorded: Recorded, matrix: OutcomeMatrix | None) -> dict[str, Bounded]:
    """Return what is estimated, a value per fault each; what was not counted, or not per input, is absent."""
    counts, inputs, accuracy = recorded.counts, recorded.inputs, recorded.accuracy
    quantities = {name: Bounded(shares) for name, shares in shares_of(inputs, counts).items()}
    if accuracy is not None and "top_1_correct" in counts:
        lost = np.asarray(accuracy - counts["top_1_correct"] / inputs, np.float64)
        quantities["accuracy_drop"] = Bounded(lost, accuracy - 1, accuracy)
    return {name: one for name, one in quantities.items() if matrix is None or name in matrix.quantities}


def _harmful(shares: Bounded, theta: float) -> Bounded:
    return Bounded(np.asarray(shares.values >= theta if theta > 0 else shares.values > 0, np.float64))


def _rates(sample: _Sample, asked: _Asked) -> Iterator[Rate]:
    """Yield all rates of one group."""
    matrix, question, level, weights = sample.matrix, sample.question, asked.level, asked.weights
    if matrix is None:
        for name, quantity in sample.quantities.items():
            yield _rate(weighted_mean(weights, quantity, level), asked, name)
        theta = question.theta
        harmful = _harmful(sample.quantities[question.leading], theta)
        yield _rate(weighted_mean(weights, harmful, level), asked, HARMFUL, theta)
        return
    parts = matrix.input_parts(weights)
    for name, quantity in sample.quantities.items():
        conditional = weighted_mean(weights, quantity, level)
        lowest = -1.0 if name == "accuracy_drop" else 0.0
        found = over_inputs(conditional, parts[name], level, lowest)
        yield _rate(found, asked, name, few_inputs=matrix.inputs < fewest_faults(level))


def _curve(sample: _Sample, network: Weights) -> list[Rate]:
    """Return P(f >= theta) of the network, for all theta that were asked for."""
    question, leading = sample.question, sample.quantities[sample.question.leading]
    thetas = sorted({*question.thetas, question.theta})
    level = bonferroni(question.level, len(thetas))
    asked = _Asked(CURVE, ALL, level, network, network.too_few(level))
    found = (weighted_mean(network, _harmful(leading, theta), level) for theta in thetas)
    return [_rate(one, asked, HARMFUL, theta) for one, theta in zip(found, thetas, strict=True)]


def _rate(found: Estimate, asked: _Asked, name: str, theta: float | None = None, few_inputs: bool = False) -> Rate:
    too_few = few_inputs or asked.too_few
    mean = None if too_few else found.mean
    se = None if too_few or np.isnan(found.se) else found.se
    return Rate(asked.scope, asked.group, name, theta, found.n, mean, se, found.low, found.high, asked.level, too_few)
