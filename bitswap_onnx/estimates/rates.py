"""Rates of a campaign with intervals, per network, layer, bit, bit class or layer and bit.

The fault is the sampling unit, not the inference. A fault's share of its inputs is f = count / inputs. Rates are means
of f over faults, or shares of faults with f >= theta (for theta = 0: f > 0). For each quantity, the intervals of a
scope's groups, or of the curve's theta, hold together at the level asked for (Bonferroni). Everything is conditional on
the inputs run, unless each fault ran over inputs drawn for it, or the question declares the inputs a sample too
(`bitswap_onnx.stats.two_way`).
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.errors import RunError
from bitswap_onnx.estimates import notes
from bitswap_onnx.estimates.figure import rate_bars
from bitswap_onnx.estimates.frames import design_notes, drawing_notes, find_strata, population_notes
from bitswap_onnx.estimates.groups import ALL, groups
from bitswap_onnx.estimates.input_design import InputDesign, input_design
from bitswap_onnx.estimates.names import CURVE, HARMFUL
from bitswap_onnx.estimates.outcome_matrix import OutcomeMatrix, read_outcome_matrix
from bitswap_onnx.estimates.question import Question
from bitswap_onnx.estimates.read import Recorded, read_recorded
from bitswap_onnx.estimates.source import Source, lies_in_run, open_source
from bitswap_onnx.report.figures import draw_figure
from bitswap_onnx.stats.intervals import Values, bonferroni, fewest_faults
from bitswap_onnx.stats.stratified import Bounded, Estimate, Frame, Strata, Weights, frame_of, weigh, weighted_mean
from bitswap_onnx.stats.two_way import over_inputs
from bitswap_onnx.tables import Tabular, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_Counts = NDArray[np.number[Any]]

_SHARES = ("non_critical", "masked", "nonfinite", "critical_nonfinite", "sdc_5", "sdc_10", "sdc_20")


@dataclass(frozen=True, slots=True)
class Rate:
    """One quantity over one group of injections, as fractions.

    ``level``: the confidence of this row, corrected for the number of groups in its scope, or of theta in the curve.
    ``mean`` and ``se`` (clustered by fault) are None where ``too_few`` faults or inputs give no estimate; the interval
    is given all the same. ``theta``: of `HARMFUL`.
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


@dataclass(frozen=True, eq=False, repr=False)
class Rates(Tabular):
    """Rates of one source; ``frame()`` has a row per `Rate`, as the CSV file.

    ``inputs``: which inputs they describe. ``corrected_for``: for each scope, the number of groups, or of theta in the
    curve, that its level is corrected for.
    """

    recorded: Recorded
    question: Question
    strata: Strata | None
    inputs: InputDesign
    rows: tuple[Rate, ...]
    corrected_for: dict[str, int]
    notes: tuple[str, ...]

    def find(self, scope: str, group: str, quantity: str, theta: float | None = None) -> Rate:
        """Return one row; raises KeyError if there is none."""
        wanted = scope, group, quantity, theta
        for row in self.rows:
            if (row.scope, row.group, row.quantity, row.theta) == wanted:
                return row
        raise KeyError(wanted)

    def headline(self) -> str:
        """Return the leading rate of the network, with its interval."""
        rate = self.find("network", ALL, self.question.leading)
        interval = f"[{percent(rate.low)}, {percent(rate.high)}] at {100 * rate.level:g} %"
        return f"{self.recorded.source}: {rate.quantity} {percent(rate.mean)} {interval}, from {rate.faults:,} faults"

    def table_rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rates."""
        return (asdict(row) | {"input_design": self.inputs.name} for row in self.rows)

    def shown_rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rates of the leading quantity."""
        names = ("scope", "group", "quantity", "faults", "mean", "low", "high")
        of_leading = (row for row in self.rows if row.quantity == self.question.leading)
        return ({name: getattr(row, name) for name in names} for row in of_leading)

    def plot(self) -> "Figure":
        """Return a figure: the leading rate of each group, with its interval; raises MissingExtraError, see `rate_bars`."""
        return draw_figure(rate_bars(self.rows, self.question.leading))


class _Sample(NamedTuple):
    """The ``quantities`` of the injections by name; ``matrix``: their outcomes per input if inputs are a sample too."""

    quantities: dict[str, Bounded]
    matrix: OutcomeMatrix | None
    question: Question


class _Asked(NamedTuple):
    """A group of a scope, the level of its rows, the weights of its faults, and whether these are too few."""

    scope: str
    group: str
    level: float
    weights: Weights
    too_few: bool


def estimate_rates(
    source: object, question: Question = Question(), design: str | Path | Strata | None = None, **asked: Any
) -> Rates:
    """Estimate the rates of a finished campaign, of its run directory or of a results file.

    ``source``: a path, or what `run_campaign` or `run_until` returned. ``asked``: fields of the question, such as
    ``by="layer,bit"`` or ``level=0.99``. ``design``: the strata of its list, or the file of the design that
    `generate_faults` wrote. None: the design that lay beside the list when it ran, or that lies beside the results file,
    if there is one. Raises what `open_source`, `read_recorded`, `find_strata` and, with ``over_inputs``,
    `read_outcome_matrix` raise, and RunError for a treatment of nonfinite scores whose counts were not recorded.
    """
    question = replace(question, **asked)
    with open_source(getattr(source, "run", source)) as opened:
        return _estimate(opened, question, design)


def _estimate(source: Source, question: Question, design: str | Path | Strata | None) -> Rates:
    recorded = read_recorded(source)
    strata = find_strata(source, design)
    frame = frame_of(recorded.source, len(recorded), strata, recorded.own_inputs is not None)
    matrix = read_outcome_matrix(source) if question.over_inputs else None
    sample = _Sample(_quantities(recorded, matrix), matrix, question)
    if question.leading not in sample.quantities:
        raise RunError(
            f"{source}: `nonfinite` {question.nonfinite} needs the counts nonfinite and critical_nonfinite, which are not "
            "there; choose as-is"
        )
    asked = list(_groups(recorded, question, frame))
    rows = [row for group in asked for row in _rates(sample, group)]
    corrected_for = dict(Counter(group.scope for group in asked))
    if matrix is None:
        curve = _curve(sample, asked[0].weights)
        corrected_for[CURVE] = len(curve)
        rows += curve
    inputs = input_design(recorded, question.over_inputs)
    remarks = (
        *recorded.notes,
        *population_notes(source, design),
        *drawing_notes(source),
        *([*design_notes(source), notes.NO_DESIGN] if strata is None else []),
        *([notes.RUN_BESIDE] if recorded.from_file and lies_in_run(source.path) else []),
        *inputs.notes,
        *_remarks(sample, recorded, asked),
    )
    return Rates(recorded, question, strata, inputs, tuple(rows), corrected_for, remarks)


def _groups(recorded: Recorded, question: Question, frame: Frame) -> Iterator[_Asked]:
    """Yield the groups of all scopes, the network first."""
    for scope in dict.fromkeys(("network", *question.by)):
        of_scope = list(groups(recorded, scope, frame))
        level = bonferroni(question.level, len(of_scope))
        for name, member, group_sizes in of_scope:
            weights = weigh(frame, member, group_sizes)
            yield _Asked(scope, name, level, weights, weights.too_few(level))


def _remarks(sample: _Sample, recorded: Recorded, asked: list[_Asked]) -> Iterator[str]:
    """Yield the notes that follow from the numbers."""
    network, leading = asked[0].weights, sample.quantities[sample.question.leading]
    plain, weighted = float(leading.values.mean()), weighted_mean(network, leading, asked[0].level).mean
    if f"{plain:.3g}" != f"{weighted:.3g}":
        yield notes.plain_mean(plain)
    if any(group.weights.listed is not None for group in asked):
        yield notes.APPROXIMATE
    if any(group.too_few for group in asked):
        yield notes.TOO_FEW
    if sample.matrix is not None and any(sample.matrix.inputs < fewest_faults(group.level) for group in asked):
        yield notes.TOO_FEW_INPUTS
    if sample.matrix is not None and recorded.accuracy is not None and "accuracy_drop" not in sample.quantities:
        yield notes.UNKNOWN_GOLDEN


def shares_of(inputs: _Counts, counts: Mapping[str, _Counts]) -> dict[str, Values]:
    """Return each quantity as a share of each fault's ``inputs``, (faults,); those that were not counted are absent.

    ``counts``: (faults,) each, by names of `bitswap_onnx.outcome.COUNTS`.
    """
    quantities = {"critical": counts["critical"]}
    if "nonfinite" in counts and "critical_nonfinite" in counts:
        finite = counts["critical"] - counts["critical_nonfinite"]
        quantities |= {"critical_or_nonfinite": finite + counts["nonfinite"], "critical_finite": finite}
    quantities |= {name: counts[name] for name in _SHARES if name in counts}
    return {name: np.asarray(count / inputs, np.float64) for name, count in quantities.items()}


def _quantities(recorded: Recorded, matrix: OutcomeMatrix | None) -> dict[str, Bounded]:
    """Return the quantities to estimate, one value per fault; those not counted, or not per input, are absent."""
    counts, inputs, accuracy = recorded.counts, recorded.inputs, recorded.accuracy
    quantities = {name: Bounded(shares) for name, shares in shares_of(inputs, counts).items()}
    if accuracy is not None and "top_1_correct" in counts:
        lost = np.asarray(accuracy - counts["top_1_correct"] / inputs, np.float64)
        quantities["accuracy_drop"] = Bounded(lost, accuracy - 1, accuracy)
    return {name: values for name, values in quantities.items() if matrix is None or name in matrix.quantities}


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
        estimate = over_inputs(conditional, parts[name], level, lowest)
        yield _rate(estimate, asked, name, few_inputs=matrix.inputs < fewest_faults(level))


def _curve(sample: _Sample, network: Weights) -> list[Rate]:
    """Return P(f >= theta) of the network, for all theta of the question."""
    question, leading = sample.question, sample.quantities[sample.question.leading]
    thetas = sorted({*question.thetas, question.theta})
    level = bonferroni(question.level, len(thetas))
    asked = _Asked(CURVE, ALL, level, network, network.too_few(level))
    estimates = (weighted_mean(network, _harmful(leading, theta), level) for theta in thetas)
    return [_rate(estimate, asked, HARMFUL, theta) for estimate, theta in zip(estimates, thetas, strict=True)]


def _rate(
    estimate: Estimate, asked: _Asked, quantity: str, theta: float | None = None, few_inputs: bool = False
) -> Rate:
    too_few = few_inputs or asked.too_few
    return Rate(
        scope=asked.scope,
        group=asked.group,
        quantity=quantity,
        theta=theta,
        faults=estimate.n,
        mean=None if too_few else estimate.mean,
        se=None if too_few or np.isnan(estimate.se) else estimate.se,
        low=estimate.low,
        high=estimate.high,
        level=asked.level,
        too_few=too_few,
    )
