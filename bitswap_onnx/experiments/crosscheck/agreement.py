"""Agreement of two runtimes on the same inputs: differences of scores and predictions, near ties, NaN and Inf."""

from dataclasses import dataclass

import numpy as np

from bitswap_onnx.outcome import Counts, Golden, Scores, TopOne, judge


@dataclass(frozen=True)
class Agreement:
    """Agreement of a run of ONNX Runtime with a native run over all inputs; ``id``: an injection's, or ``clean``.

    ``difference``: the largest score difference where both sides are finite; ``relative``: the same, with each input's
    difference divided by its largest score. ``differing``: the number of different predictions where both sides are
    finite, of which ``near_ties`` are ties within rounding. ``nonfinite``: inferences with NaN or Inf on either side,
    of which ``nonfinite_differing`` have different predictions. ``example``: the first input with different predictions
    that is nonfinite or no near tie. ``runtime`` and ``native``: the outcome counts of each side.
    """

    id: str
    inputs: int
    difference: float
    relative: float
    differing: int
    near_ties: int
    nonfinite: int
    nonfinite_differing: int
    runtime: Counts
    native: Counts
    example: int | None = None


def measure_agreement(identifier: str, runtime: tuple[Scores, Scores], native: tuple[Scores, Scores]) -> Agreement:
    """Compare two (golden, faulty) pairs of scores, each (inputs, classes); for the clean run both are golden.

    A near tie is a differing prediction whose margin, on both sides, is at most twice the clean score difference,
    scaled up if the input's faulty scores are larger than the clean scores.
    """
    (clean, ours), (native_clean, theirs) = runtime, native
    finite = np.isfinite(ours).all(axis=1) & np.isfinite(theirs).all(axis=1)
    differs = ours.argmax(axis=1) != theirs.argmax(axis=1)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        distance = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
        tie = _margin(ours, theirs) <= 2 * _tolerance(clean, native_clean, ours)
        relative = distance / np.abs(ours).max(axis=1, keepdims=True)
    telling = np.flatnonzero(differs & ~(finite & tie))
    return Agreement(
        id=identifier,
        inputs=len(ours),
        difference=float(distance[finite].max(initial=0.0)),
        relative=float(relative[finite].max(initial=0.0)),
        differing=int(np.sum(differs & finite)),
        near_ties=int(np.sum(differs & finite & tie)),
        nonfinite=int(np.sum(~finite)),
        nonfinite_differing=int(np.sum(differs & ~finite)),
        runtime=judge(Golden(clean, None, TopOne()), ours).counts,
        native=judge(Golden(native_clean, None, TopOne()), theirs).counts,
        example=int(telling[0]) if len(telling) else None,
    )


def _margin(ours: Scores, theirs: Scores) -> Scores:
    """Return per input each side's margin of its winner over the other side's winner, the larger of both: (inputs,)."""
    rows = np.arange(len(ours))
    a, b = ours.argmax(axis=1), theirs.argmax(axis=1)
    wide = ours.astype(np.float64), theirs.astype(np.float64)
    return np.asarray(np.maximum(wide[0][rows, a] - wide[0][rows, b], wide[1][rows, b] - wide[1][rows, a]))


def _tolerance(clean: Scores, native_clean: Scores, ours: Scores) -> Scores:
    """Return the clean score difference, scaled to each input's faulty scores: (inputs,)."""
    difference = np.abs(clean.astype(np.float64) - native_clean.astype(np.float64)).max()
    scale = np.abs(ours.astype(np.float64)).max(axis=1) / max(float(np.abs(clean).max()), 1e-30)
    return np.asarray(difference * np.maximum(scale, 1.0))
