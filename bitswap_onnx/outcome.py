"""Golden and faulty scores → outcomes, one per input.

Each input has one outcome. ``masked``: all scores are equal (IEEE ==). ``critical``: the top-1 class differs, where
argmax takes the first maximum and treats NaN as larger than every number (numpy's rule). ``non_critical``: neither.

Further flags can come with any outcome: ``nonfinite`` (a faulty score is NaN or Inf), ``sdc_5`` (the faulty top-1 is
outside the golden top-5), ``sdc_10`` and ``sdc_20`` (the softmax score of the golden top class moves by more than 10 or
20 % of its golden value; Li et al., SC 2017).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.errors import BitswapError

Scores = NDArray[np.floating[Any]]
Flags = NDArray[np.bool_]

#: Codes of `Outcomes.code`.
MASKED, NON_CRITICAL, CRITICAL = 0, 1, 2
OUTCOME_NAMES = ("masked", "non_critical", "critical")

#: The names of an injection's counts, in the order of results.csv.
COUNTS = (
    "top_1_correct",
    "top_5_correct",
    "top_1_robust",
    "top_5_robust",
    *OUTCOME_NAMES,
    "nonfinite",
    "critical_nonfinite",
    "sdc_5",
    "sdc_10",
    "sdc_20",
)

Counts = dict[str, int | None]


@dataclass(frozen=True)
class TopOne:
    """Critical: the top-1 class differs from the golden one. For classifiers.

    ``probabilities``: the scores come from a Softmax, so that they are used without another one.
    """

    probabilities: bool = False
    tolerance: ClassVar[None] = None
    needs_classes: ClassVar[bool] = True

    def fit(self, golden: Scores, probabilities: bool) -> "TopOne":
        """Return the criterion for scores that are ``probabilities``, or not."""
        return TopOne(probabilities)

    def applying(self, labelled: bool) -> frozenset[str]:
        """Return all counts; without labels, all but those of correct predictions."""
        return frozenset(COUNTS if labelled else set(COUNTS) - {"top_1_correct", "top_5_correct"})

    def flags(self, golden: "Golden", faulty: Scores, masked: Flags) -> dict[str, Flags]:
        """Return what the classes tell, (inputs,) each."""
        top_1 = np.asarray(np.argmax(faulty, axis=1), np.int64)
        with np.errstate(invalid="ignore"):
            shift = np.abs(softmax_score(faulty, golden.top_1, self.probabilities) - golden.confidence)
        flags = {
            "critical": np.asarray(top_1 != golden.top_1),
            "top_1_robust": top_1 == golden.top_1,
            "top_5_robust": rank(faulty, golden.top_1) < 5,
            "sdc_5": rank(golden.scores, top_1) >= 5,
            "sdc_10": ~(shift <= 0.10 * golden.confidence) & ~masked,
            "sdc_20": ~(shift <= 0.20 * golden.confidence) & ~masked,
        }
        if golden.labels is not None:
            flags |= {"top_1_correct": top_1 == golden.labels, "top_5_correct": rank(faulty, golden.labels) < 5}
        return flags


@dataclass(frozen=True)
class Tolerance:
    """Critical: some output moved by more than ``tolerance`` times ``span``, the range of the whole golden output.

    For models that are no classifiers. ``probabilities``: as in `TopOne`.
    """

    tolerance: float
    span: float = 1.0
    probabilities: bool = False
    needs_classes: ClassVar[bool] = False

    def fit(self, golden: Scores, probabilities: bool) -> "Tolerance":
        """Return the criterion with the range of the ``golden`` output."""
        return Tolerance(self.tolerance, float(np.ptp(golden.astype(np.float64))), probabilities)

    def applying(self, labelled: bool) -> frozenset[str]:
        """Return the counts that need no classes."""
        return frozenset({*OUTCOME_NAMES, "nonfinite", "critical_nonfinite"})

    def flags(self, golden: "Golden", faulty: Scores, masked: Flags) -> dict[str, Flags]:
        """Return whether some output moved too far, (inputs,). A distance of NaN counts as too far."""
        with np.errstate(invalid="ignore", over="ignore"):
            distance = np.abs(faulty.astype(np.float64) - golden.scores.astype(np.float64))
        return {"critical": np.asarray(~(distance <= self.tolerance * self.span).all(axis=1)) & ~masked}


#: What makes an inference critical, and which of `COUNTS` follow from it.
Criterion = TopOne | Tolerance


def criterion_from(record: Mapping[str, Any]) -> Criterion:
    """Return the criterion that has the fields of ``record``; one without a ``tolerance`` is `TopOne`."""
    fields = {name: value for name, value in record.items() if value is not None}
    return Tolerance(**fields) if "tolerance" in fields else TopOne(**fields)


def parse_criterion(text: str | None) -> Criterion:
    """Return the criterion of ``tolerance=REL``, or of ``top-1`` and no text; raises BitswapError for others."""
    if text in (None, "top-1"):
        return TopOne()
    match = re.fullmatch(r"tolerance=([0-9.eE+-]+)", str(text))
    try:
        tolerance = float(match[1]) if match else -1.0
    except ValueError:
        tolerance = -1.0
    if not 0 <= tolerance < np.inf:
        raise BitswapError(f"`criterion`: expected top-1 or tolerance=REL with REL >= 0, found {text!r}")
    return Tolerance(tolerance)


@dataclass(frozen=True)
class Golden:
    """Golden ``scores`` of some inputs, shape (inputs, classes), and their ``labels``, shape (inputs,), if known."""

    scores: Scores
    labels: NDArray[np.int64] | None
    criterion: Criterion

    @cached_property
    def top_1(self) -> NDArray[np.int64]:
        """Predicted class of each input."""
        return np.asarray(np.argmax(self.scores, axis=1), np.int64)

    @cached_property
    def confidence(self) -> NDArray[np.float64]:
        """Softmax score of the predicted class of each input."""
        return softmax_score(self.scores, self.top_1, self.criterion.probabilities)

    @cached_property
    def flags(self) -> Flags:
        """The flags of `COUNTS` for the golden scores themselves, shape (len(COUNTS), inputs)."""
        return _flags(self, self.scores)

    def take(self, rows: slice | NDArray[np.intp]) -> "Golden":
        """Return the golden scores of some inputs; properties that are already computed are not computed again."""
        part = Golden(self.scores[rows], None if self.labels is None else self.labels[rows], self.criterion)
        for name in ("top_1", "confidence"):
            if name in self.__dict__:
                part.__dict__[name] = self.__dict__[name][rows]
        if "flags" in self.__dict__:
            part.__dict__["flags"] = self.flags[:, rows]
        return part


def decode_correct(encoded: bytes) -> Flags:
    """Return from `Outcomes.encoded` whether each input's top-1 class is its label; all False without labels."""
    return np.asarray(np.frombuffer(encoded, np.uint8) & np.uint8(4) != 0)


@dataclass(frozen=True)
class Outcomes:
    """Outcomes of one injection: ``flags`` (len(COUNTS), inputs) and their sums, None for those that do not apply."""

    flags: Flags
    counts: Counts

    @property
    def code(self) -> NDArray[np.uint8]:
        """The outcome of each input: MASKED, NON_CRITICAL or CRITICAL."""
        first = COUNTS.index(OUTCOME_NAMES[0])
        return np.asarray(self.flags[first : first + len(OUTCOME_NAMES)].argmax(axis=0), np.uint8)

    def over(self, rows: NDArray[np.intp]) -> "Outcomes":
        """Return the outcomes of some inputs; ``rows`` are the distinct numbers of these inputs."""
        if len(rows) == self.flags.shape[1]:
            return self
        flags = self.flags[:, rows]
        sums = zip(COUNTS, flags.sum(axis=1), strict=True)
        return Outcomes(flags, {name: None if self.counts[name] is None else int(count) for name, count in sums})

    @property
    def nonfinite(self) -> Flags:
        """Whether each input has a score that is NaN or Inf."""
        return np.asarray(self.flags[COUNTS.index("nonfinite")])

    def encoded(self) -> bytes:
        """Return a byte per input: bits 0-1 the code, bit 2 a correct top-1, bit 7 nonfinite; see `decode_outcomes`."""
        correct = self.flags[COUNTS.index("top_1_correct")]
        flags = correct.astype(np.uint8) << 2 | self.nonfinite.astype(np.uint8) << 7
        return bytes(self.code | flags)


def decode_outcomes(encoded: bytes) -> tuple[NDArray[np.uint8], Flags]:
    """Return (code, nonfinite) of `Outcomes.encoded`."""
    codes = np.frombuffer(encoded, np.uint8)
    return codes & np.uint8(3), np.asarray(codes >> 7 != 0)


def judge(golden: Golden, faulty: Scores) -> Outcomes:
    """Return the outcomes of ``faulty`` scores, which have the shape of the golden ones, (inputs, classes).

    Counts that need labels are None without labels; counts that need classes are None under a tolerance criterion.
    """
    (outcomes,) = judge_rows(golden, np.arange(len(faulty)), faulty, (0, len(faulty)))
    return outcomes


def judge_rows(golden: Golden, rows: NDArray[np.intp], faulty: Scores, bounds: Sequence[int]) -> list[Outcomes]:
    """Return the outcomes of several injections, each with faulty scores for some of the inputs.

    Injection i has the scores ``faulty[bounds[i]:bounds[i + 1]]``, of the inputs ``rows[bounds[i]:bounds[i + 1]]``,
    each input at most once. On every other input of ``golden`` its scores are the golden ones. Counts as in `judge`.
    """
    flags = _flags(golden.take(rows), faulty)
    clean, total = golden.flags[:, rows], golden.flags.sum(axis=1)
    applying = golden.criterion.applying(golden.labels is not None)
    results = []
    for first, stop in pairwise(bounds):
        part = slice(first, stop)
        sums = total + flags[:, part].sum(axis=1) - clean[:, part].sum(axis=1)
        counts: Counts = {name: int(n) if name in applying else None for name, n in zip(COUNTS, sums, strict=True)}
        own = golden.flags.copy()
        own[:, rows[part]] = flags[:, part]
        results.append(Outcomes(own, counts))
    return results


def rank(scores: Scores, classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many classes rank before ``classes[i]`` in ``scores[i]``, 0 for the top class; shape (inputs,).

    Classes rank by score descending, NaN first, then by index ascending. Shapes: ``scores`` (inputs, classes),
    ``classes`` (inputs,).
    """
    own = np.take_along_axis(scores, classes[:, None], axis=1)
    nan, own_nan = np.isnan(scores), np.isnan(own)
    before = (scores > own) | (nan & ~own_nan)
    ties = (scores == own) | (nan & own_nan)
    before |= ties & (np.arange(scores.shape[1]) < classes[:, None])
    result: NDArray[np.int64] = before.sum(axis=1)
    return result


def softmax_score(scores: Scores, classes: NDArray[np.int64], probabilities: bool) -> NDArray[np.float64]:
    """Return the softmax score of one class per input in float64, shape (inputs,); NaN where softmax is undefined.

    ``probabilities``: ``scores`` are softmax scores already.
    """
    wide = scores.astype(np.float64)
    if not probabilities:
        with np.errstate(invalid="ignore", over="ignore"):
            wide = np.exp(wide - wide.max(axis=1, keepdims=True))
            wide /= wide.sum(axis=1, keepdims=True)
    result: NDArray[np.float64] = np.take_along_axis(wide, classes[:, None], axis=1)[:, 0]
    return result


def _flags(golden: Golden, faulty: Scores) -> Flags:
    """Return what is counted, one row per name of `COUNTS`, one column per input; rows that do not apply are False."""
    masked = np.asarray(np.all(golden.scores == faulty, axis=1))
    flags = golden.criterion.flags(golden, faulty, masked)
    critical, nonfinite = flags["critical"], np.asarray(~np.isfinite(faulty).all(axis=1))
    flags |= {"masked": masked & ~critical, "non_critical": ~masked & ~critical}
    flags |= {"nonfinite": nonfinite, "critical_nonfinite": critical & nonfinite}
    absent = np.zeros(len(faulty), np.bool_)
    return np.stack([flags.get(name, absent) for name in COUNTS])
