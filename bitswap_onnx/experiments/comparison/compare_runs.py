"""Compare two runs of the same faults: the difference of two graphs in one runtime, per network, layer and bit class.

There are three quantities: ``critical``, the share of critical inputs; ``critical_finite``, the same without inputs
whose scores are NaN or Inf, which a user can detect; ``masked``, kept separate because rounding alone changes it. Every
layer and bit class has a verdict of its own; verdicts are not corrected for multiple comparisons.
"""

import csv
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.errors import BitswapError, amount
from bitswap_onnx.experiments.comparison.paired_runs import READ_COUNTS, CountTable, RunPair, read_pair
from bitswap_onnx.faults.bits import BIT_CLASSES
from bitswap_onnx.files import replacing
from bitswap_onnx.outcome import CRITICAL
from bitswap_onnx.stats.clustered import BOOTSTRAP_DRAWS, bootstrap_interval, clustered_mean, upper_share
from bitswap_onnx.stats.intervals import CONFIDENCE_LEVEL
from bitswap_onnx.stats.paired import equivalence, kappa, mcnemar, positive_agreement
from bitswap_onnx.tables import Tabular, percent

GRAPH_EFFECT = (
    "the graph effect: two graphs of the same weights, the same faults and inputs, in one runtime; "
    "what the frameworks' own kernels add is not in it. Conditional on the inputs run"
)
COMPARISON_FILES = ("compare.json", "compare.csv")


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The criteria of a comparison; choose them before looking at results.

    ``delta``: two models count as equivalent within this many percentage points of critical share. ``theta``: McNemar's
    test counts the faults whose critical share exceeds it. ``seed`` is the bootstrap's. Raises BitswapError for a
    ``delta`` outside (0, 100] or a ``theta`` outside [0, 1).
    """

    delta: float = 0.1
    theta: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.delta <= 100:
            raise BitswapError(f"`delta`: expected percentage points over 0, at most 100, found {self.delta}")
        if not 0 <= self.theta < 1:
            raise BitswapError(f"`theta`: expected a share from 0 up to 1 (excluded), found {self.theta}")


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One quantity over one group of injections; shares are fractions, ``difference`` is B - A.

    ``low`` and ``high``: Student's 95 % interval; ``bootstrap_...``: the stratified bootstrap's; ``tost_...``: the 90 %
    interval that decides the verdict. ``differing``: the number of faults whose share differs at all;
    ``differing_upper``: the exact 95 % upper bound of their share among all faults, which still informs where no fault
    differs and the intervals have no width. A field that does not apply is None.
    """

    scope: str
    group: str
    partner: str
    quantity: str
    injections: int
    share_a: float
    share_b: float
    difference: float
    se: float | None
    low: float | None
    high: float | None
    bootstrap_low: float | None
    bootstrap_high: float | None
    differing: int
    differing_upper: float
    tost_low: float | None = None
    tost_high: float | None = None
    tost_p: float | None = None
    verdict: str | None = None
    mcnemar_a_only: int | None = None
    mcnemar_b_only: int | None = None
    mcnemar_p: float | None = None
    kappa: float | None = None
    positive_agreement: float | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Tabular):
    """Two runs compared: ``about`` describes the runs and the method, ``rows`` are the numbers, also as ``frame()``."""

    notebook_columns = ("scope", "group", "quantity", "injections", "share_a", "share_b", "difference", "verdict")

    about: dict[str, Any]
    rows: tuple[ComparisonRow, ...]

    def headline(self) -> str:
        """Return the networks, and the difference of their critical shares."""
        first = self.rows[0]
        return (
            f"{self.about['a']['network']} and {self.about['b']['network']}: "
            f"{amount(self.about['injections'], 'injection')}, critical {percent(first.share_a)} and "
            f"{percent(first.share_b)}: {first.verdict}"
        )

    def table_rows(self) -> Iterator[dict[str, Any]]:
        """Yield the numbers of each group and quantity."""
        yield from map(asdict, self.rows)

    def write(self, folder: Path) -> None:
        """Write compare.json and compare.csv into ``folder``, each whole or not at all; raises RunError."""
        with replacing(folder / COMPARISON_FILES[0]) as file:
            json.dump({**self.about, "rows": [asdict(row) for row in self.rows]}, file, indent=2, allow_nan=False)
            file.write("\n")
        with replacing(folder / COMPARISON_FILES[1]) as file:
            writer = csv.DictWriter(file, [field.name for field in fields(ComparisonRow)], lineterminator="\n")
            writer.writeheader()
            writer.writerows(asdict(row) for row in self.rows)


def compare_runs(
    run_a: str | Path, run_b: str | Path, judgement: Judgement = Judgement(), *, allow_unpaired: bool = False
) -> Comparison:
    """Compare two finished runs of the same faults on the same inputs.

    Raises RunError as `read_pair` does. ``allow_unpaired`` leaves out injections without a partner.
    """
    pair = read_pair(Path(run_a), Path(run_b), allow_unpaired)
    rng = np.random.default_rng(judgement.seed)
    rows = [row for group in _groups(pair) for row in _rows(pair, group, judgement, rng)]
    return Comparison(_about(pair, Path(run_a), Path(run_b), judgement), tuple(rows))


@dataclass(frozen=True, slots=True)
class _Group:
    scope: str
    name: str
    partner: str
    member: NDArray[np.bool_]


def _groups(pair: RunPair) -> Iterator[_Group]:
    """Yield the network, its bit classes, the sign first, and its layers in the list's order."""
    yield _Group("network", "all", "all", np.ones(len(pair.layers), np.bool_))
    classes = set(pair.bit_classes.tolist())
    order = [name for name in BIT_CLASSES if name in classes]
    for name in [*order, *sorted(classes.difference(order))]:
        yield _Group("bit class", name, name, pair.bit_classes == name)
    for name in dict.fromkeys(pair.layers.tolist()):
        member = pair.layers == name
        yield _Group("layer", name, "; ".join(dict.fromkeys(pair.partner_layers[member].tolist())), member)


_QUANTITIES: dict[str, Callable[[dict[str, CountTable]], CountTable]] = {
    "critical": lambda counts: counts["critical"],
    "critical_finite": lambda counts: counts["critical"] - counts["critical_nonfinite"],
    "masked": lambda counts: counts["masked"],
}


def _rows(pair: RunPair, group: _Group, judgement: Judgement, rng: np.random.Generator) -> Iterator[ComparisonRow]:
    for quantity in _QUANTITIES:
        if quantity != "masked" or pair.masked_comparable:
            yield _row(pair, group, quantity, judgement, rng)


def _row(pair: RunPair, group: _Group, quantity: str, judgement: Judgement, rng: np.random.Generator) -> ComparisonRow:
    share_a, share_b = (_shares(counts[group.member], quantity) for counts in (pair.counts_a, pair.counts_b))
    d = share_b - share_a
    mean = clustered_mean(d)
    low, high = map(_known, mean.interval(CONFIDENCE_LEVEL))
    bootstrap_low, bootstrap_high = map(_known, bootstrap_interval(d, pair.layers[group.member], rng, CONFIDENCE_LEVEL))
    row = ComparisonRow(
        scope=group.scope,
        group=group.name,
        partner=group.partner,
        quantity=quantity,
        injections=mean.n,
        share_a=float(share_a.mean()),
        share_b=float(share_b.mean()),
        difference=mean.mean,
        se=_known(mean.se),
        low=low,
        high=high,
        bootstrap_low=bootstrap_low,
        bootstrap_high=bootstrap_high,
        differing=int(np.count_nonzero(d)),
        differing_upper=upper_share(int(np.count_nonzero(d)), mean.n),
    )
    if quantity == "masked":
        return row
    test = equivalence(mean, judgement.delta / 100)
    discordant = mcnemar(share_a > judgement.theta, share_b > judgement.theta)
    table = _agreement_table(pair, group, quantity)
    return replace(
        row,
        tost_low=_known(test.low),
        tost_high=_known(test.high),
        tost_p=_known(test.p),
        verdict=test.verdict,
        mcnemar_a_only=discordant.a_only,
        mcnemar_b_only=discordant.b_only,
        mcnemar_p=discordant.p,
        kappa=_known(kappa(table)),
        positive_agreement=_known(positive_agreement(table)),
    )


def _agreement_table(pair: RunPair, group: _Group, quantity: str) -> CountTable:
    """Return the counts of each pair of outcomes, as critical or not where masked is not comparable."""
    table = (pair.tables if quantity == "critical" else pair.finite_tables)[group.member].sum(axis=0)
    if pair.masked_comparable:
        return np.asarray(table)
    return np.asarray(np.add.reduceat(np.add.reduceat(table, [0, CRITICAL], axis=0), [0, CRITICAL], axis=1))


def _shares(counts: CountTable, quantity: str) -> NDArray[np.float64]:
    named = dict(zip(READ_COUNTS, counts.T, strict=True))
    return np.asarray(_QUANTITIES[quantity](named) / named["inputs"], np.float64)


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _about(pair: RunPair, run_a: Path, run_b: Path, judgement: Judgement) -> dict[str, Any]:
    notes = list(pair.notes)
    if not pair.masked_comparable:
        notes.append(
            "one model ends in Softmax, the other gives logits: masked is not compared, kappa is on critical or not"
        )
    if not pair.per_input:
        notes.append(
            "at least one run lacks the record `per_input`: kappa and positive agreement compare the outcome "
            "that most inputs of an injection have"
        )
    unpaired = {"a": list(pair.unpaired_a), "b": list(pair.unpaired_b)}
    if any(unpaired.values()):
        notes.append(
            f"injections left out, without a partner: {len(pair.unpaired_a)} of A, {len(pair.unpaired_b)} of B"
        )
    return {
        "measures": GRAPH_EFFECT,
        "a": {"run": str(run_a), **pair.golden_a},
        "b": {"run": str(run_b), **pair.golden_b},
        "injections": len(pair.layers),
        "inputs": pair.golden_a["inputs"],
        "unpaired": unpaired,
        "judgement": {**asdict(judgement), "delta_unit": "percentage points", "alpha": 0.05},
        "bootstrap": {"draws": BOOTSTRAP_DRAWS, "strata": "layer", "interval": "percentile, 95 %"},
        "agreement": "per input" if pair.per_input else "per injection",
        "checked": list(pair.checked),
        "notes": notes,
    }
