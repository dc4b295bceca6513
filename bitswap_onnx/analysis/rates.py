"""Rates of a campaign with intervals, per network, layer, bit, bit class or layer and bit. The fault is the sampling unit.

A fault's share of its inputs is f = count / inputs; rates are means of f over faults, or shares of faults with f >= theta.
Rows of one table that ask the same of several groups (or of several theta) hold all together at the level asked for
(Bonferroni). Everything is conditional on the inputs run.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from bitswap_onnx.analysis.intervals import bonferroni, fewest_faults
from bitswap_onnx.analysis.recorded import OTHER, SEVERAL, Labels, Recorded, list_fingerprints, read_recorded
from bitswap_onnx.analysis.stratified import Bounded, Frame, Members, Strata, estimate_mean, frame_of
from bitswap_onnx.design import design_path, read_design
from bitswap_onnx.errors import BitswapError, RunError
from bitswap_onnx.faults.bits import BIT_CLASSES
from bitswap_onnx.faults.fault import Kind

Scope = Literal["network", "layer", "bit", "bit-class", "layer-bit"]
Nonfinite = Literal["as-is", "critical", "detected"]

SCOPES: tuple[Scope, ...] = ("network", "layer", "bit", "bit-class", "layer-bit")
#: The scope of P(f >= theta) over several theta, for the network.
CURVE = "curve"
#: The quantity that is a share of faults, not of inferences; its theta stands beside it.
HARMFUL = "harmful_faults"
#: The one group that is not a part.
ALL = "all"

#: What counts as critical in each treatment of NaN and Inf scores: they as any other; always; never (detected, a DUE).
LEADING: dict[str, str] = {"as-is": "critical", "critical": "critical_or_nonfinite", "detected": "critical_finite"}

THETAS = (0.0, 0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.9)

_SHARES = ("non_critical", "masked", "nonfinite", "critical_nonfinite", "sdc_5", "sdc_10", "sdc_20")

_NO_DESIGN = (
    "no design of the list is known: injections count as a simple random sample of a far larger population, all with "
    "the same weight and without a population correction (--design names what faults generate wrote beside a list)"
)

_TOO_FEW = "too few: had all those faults come out alike, their interval would still reach past one half; no estimate"


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked: ``by`` scopes, at a confidence ``level``, with NaN and Inf scores treated as ``nonfinite`` says.

    ``theta``: a fault is harmful whose critical share reaches it; 0: that has any critical input at all. ``thetas``: where
    else the curve P(f >= theta) is asked for.
    """

    by: tuple[Scope, ...] = ("network", "bit-class", "bit")
    level: float = 0.95
    nonfinite: Nonfinite = "as-is"
    theta: float = 0.0
    thetas: tuple[float, ...] = THETAS

    def __post_init__(self) -> None:
        unknown = [name for name in self.by if name not in SCOPES]
        if unknown or not self.by:
            raise BitswapError(f"--by: expected some of {','.join(SCOPES)}, found {','.join(unknown) or 'nothing'}")
        if not 0 < self.level < 1:
            raise BitswapError(f"--level: expected a confidence between 0 and 1, like 0.95, found {self.level}")
        if not 0 <= self.theta <= 1:
            raise BitswapError(f"--theta: expected a share of inputs from 0 to 1, found {self.theta}")


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
    """Rates of one source. ``tables``: how many rows each scope's level was divided among."""

    recorded: Recorded
    question: Question
    strata: Strata | None
    rows: tuple[Rate, ...]
    tables: dict[str, int]
    notes: tuple[str, ...]

    @property
    def leading(self) -> str:
        """The quantity that counts as critical."""
        return LEADING[self.question.nonfinite]

    def find(self, scope: str, group: str, quantity: str, theta: float | None = None) -> Rate:
        """Return one row; raises KeyError if there is none."""
        wanted = scope, group, quantity, theta
        for row in self.rows:
            if (row.scope, row.group, row.quantity, row.theta) == wanted:
                return row
        raise KeyError(wanted)


def estimate_rates(
    source: str | Path, question: Question = Question(), design: str | Path | Strata | None = None
) -> Rates:
    """Estimate the rates of a finished run directory or a results file; `read_recorded` says what is refused.

    ``design``: how its list was drawn, or the file that `generate_faults` wrote about that; None: for a file the one beside
    it, if there is one. Raises RunError where that is another list's, and for a treatment of nonfinite scores that nothing
    was counted for.
    """
    recorded = read_recorded(Path(source))
    strata = _strata(Path(source), design)
    frame = frame_of(recorded.source, len(recorded), strata)
    quantities = _quantities(recorded)
    leading = quantities.get(LEADING[question.nonfinite])
    if leading is None:
        raise RunError(
            f"{source}: --nonfinite {question.nonfinite} needs the counts nonfinite and critical_nonfinite, which it has not"
        )
    rows: list[Rate] = []
    tables: dict[str, int] = {}
    for scope in dict.fromkeys(("network", *question.by)):
        groups = list(_groups(recorded, scope))
        tables[scope] = len(groups)
        level = bonferroni(question.level, len(groups))
        for group, member in groups:
            rows += [_rate(frame, member, q, level, scope, group, name) for name, q in quantities.items()]
            harmful = _harmful(leading, question.theta)
            rows.append(_rate(frame, member, harmful, level, scope, group, HARMFUL, question.theta))
    curve = _curve(frame, leading, question)
    tables[CURVE] = len(curve)
    few = [_TOO_FEW] if any(row.too_few for row in (*rows, *curve)) else []
    notes = (*recorded.notes, *([_NO_DESIGN] if strata is None else []), *few)
    return Rates(recorded, question, strata, (*rows, *curve), tables, notes)


def _strata(source: Path, design: str | Path | Strata | None) -> Strata | None:
    """Return how the list was drawn; raises RunError for the design of another list."""
    if isinstance(design, Strata):
        return design
    if design is None:
        beside = design_path(source)
        if not source.is_file() or not beside.is_file():
            return None
        design = beside
    found = read_design(design)
    if found.list_sha256 not in list_fingerprints(source):
        raise RunError(f"{design}: the design of another list than that of {source}, by its hash; give that list's own")
    flips = found.request.kinds == (Kind.FLIP,) and found.request.multiplicity == 1
    names, sizes, populations = zip(*((one.name, one.size, one.population) for one in found.strata), strict=True)
    return Strata(names, sizes, populations, found.population if flips else None)


def _quantities(recorded: Recorded) -> dict[str, Bounded]:
    """Return what is estimated, a share per fault each; what was not counted is absent."""
    counts, inputs = recorded.counts, recorded.inputs
    found = {"critical": counts["critical"]}
    if "nonfinite" in counts and "critical_nonfinite" in counts:
        finite = counts["critical"] - counts["critical_nonfinite"]
        found |= {"critical_or_nonfinite": finite + counts["nonfinite"], "critical_finite": finite}
    found |= {name: counts[name] for name in _SHARES if name in counts}
    quantities = {name: Bounded(np.asarray(count / inputs, np.float64)) for name, count in found.items()}
    if recorded.accuracy is not None and "top_1_correct" in counts:
        lost = np.asarray(recorded.accuracy - counts["top_1_correct"] / inputs, np.float64)
        quantities["accuracy_drop"] = Bounded(lost, recorded.accuracy - 1, recorded.accuracy)
    return quantities


def _harmful(shares: Bounded, theta: float) -> Bounded:
    return Bounded(np.asarray(shares.values >= theta if theta > 0 else shares.values > 0, np.float64))


def _curve(frame: Frame, leading: Bounded, question: Question) -> list[Rate]:
    """Return P(f >= theta) of the network, for all theta that were asked for."""
    thetas = sorted({*question.thetas, question.theta})
    level, member = bonferroni(question.level, len(thetas)), np.arange(len(leading.values))
    return [_rate(frame, member, _harmful(leading, theta), level, CURVE, ALL, HARMFUL, theta) for theta in thetas]


def _rate(
    frame: Frame,
    member: Members,
    quantity: Bounded,
    level: float,
    scope: str,
    group: str,
    name: str,
    theta: float | None = None,
) -> Rate:
    found = estimate_mean(frame, member, quantity, level)
    too_few = found.n < fewest_faults(level) and not found.census
    mean = None if too_few else found.mean
    se = None if too_few or np.isnan(found.se) else found.se
    return Rate(scope, group, name, theta, found.n, mean, se, found.low, found.high, level, too_few)


def _groups(recorded: Recorded, scope: Scope) -> Iterator[tuple[str, Members]]:
    """Yield the groups of a scope and their injections: layers as the list has them, bits from the highest on."""
    layers, bits = recorded.layers, recorded.bits
    match scope:
        case "network":
            yield ALL, np.arange(len(recorded))
        case "layer":
            yield from _split(layers)
        case "bit":
            yield from sorted(_split(bits), key=lambda group: _bit_order(group[0]))
        case "bit-class":
            order = (*BIT_CLASSES, OTHER, SEVERAL)
            yield from sorted(_split(recorded.bit_classes), key=lambda group: order.index(group[0]))
        case "layer-bit":
            mixed = (layers == SEVERAL) | (bits == SEVERAL)
            for layer, member in _split(np.where(mixed, SEVERAL, layers)):
                parts = [(SEVERAL, np.arange(len(member)))] if layer == SEVERAL else list(_split(bits[member]))
                for bit, part in sorted(parts, key=lambda group: _bit_order(group[0])):
                    yield SEVERAL if layer == SEVERAL else f"{layer} bit {bit}", member[part]


def _split(labels: Labels) -> list[tuple[str, Members]]:
    """Return each label, in the order of first appearance, with the injections that have it."""
    names, first, number = np.unique(labels, return_index=True, return_inverse=True)
    parts = np.split(np.argsort(number, kind="stable"), np.cumsum(np.bincount(number))[:-1])
    return [(str(names[i]), parts[i]) for i in np.argsort(first)]


def _bit_order(bit: str) -> tuple[int, str]:
    return (-int(bit), "") if bit.isdigit() else (1, bit)
