"""A sample that grows in rounds: each draw first draws its stratum, with probabilities that the round sets.

From its stratum, a draw takes one of the faults that are left, all with equal probability. With replacement it takes
one of all faults of the stratum: where each injection runs over inputs drawn for it, a fault that comes again gives new
outcomes. All draws follow from the seed and the rounds alone, on every machine.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.faults.fault import Injection
from bitswap_onnx.sampling.draws import draw, permute
from bitswap_onnx.sampling.strata import Pattern, Stratum

#: An array of numbers of strata or of injections.
Indices = NDArray[np.intp]
Probabilities = NDArray[np.float64]

#: The number of faults left in a stratum that is never exhausted.
_ENDLESS = 1 << 62
#: Draws that are searched together for the one that takes the last fault of a stratum.
_TOGETHER = 4096
#: Bits of the numbers drawn, and the bits of these that a float holds.
_BITS, _KEPT = 63, 53


@dataclass(frozen=True, slots=True)
class Round:
    """A number of ``draws``, from strata with ``probabilities`` (strata,); None: that many draws from each stratum.

    The probability of a stratum with nothing left goes to the other strata, in proportion to theirs.
    """

    draws: int
    probabilities: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive draws with the same ``probabilities`` (strata,) or None; ``strata`` (draws,): the stratum of each."""

    strata: Indices
    probabilities: Probabilities | None


def choose_strata(
    rounds: Sequence[Round], populations: Sequence[int], seed: int, *, with_replacement: bool = False
) -> Iterator[list[Piece]]:
    """Yield the draws of each round, in order. A round ends early when no fault is left."""
    left = np.array([_ENDLESS if with_replacement else size for size in populations], np.int64)
    drawn = 0
    for planned in rounds:
        if planned.probabilities is None:
            pieces = [_from_each(planned.draws, left)]
        else:
            ranks = np.arange(drawn, drawn + planned.draws, dtype=np.uint64)
            numbers = permute(ranks, 1 << _BITS, f"{seed}/strata") >> np.uint64(_BITS - _KEPT)
            pieces = list(_chosen(numbers / (1 << _KEPT), np.array(planned.probabilities), left))
        for piece in pieces:
            left -= np.bincount(piece.strata, minlength=len(left))
            drawn += len(piece.strata)
        yield pieces


def injections_of_last(
    rounds: Sequence[Round], strata: Sequence[Stratum], pattern: Pattern, seed: int, *, with_replacement: bool = False
) -> list[Injection]:
    """Return the injections of the last round, in the order of its draws; ids count the draws of all rounds from 0."""
    populations = [pattern.population(stratum.slots) for stratum in strata]
    *before, last = (
        _strata_of(pieces) for pieces in choose_strata(rounds, populations, seed, with_replacement=with_replacement)
    )
    taken = np.bincount(np.concatenate([np.zeros(0, np.intp), *before]), minlength=len(strata)).tolist()
    more = np.bincount(last, minlength=len(strata)).tolist()
    draws = [
        draw(stratum, pattern, seed, start + count, start, order="with_replacement" if with_replacement else "drawn")
        for stratum, start, count in zip(strata, taken, more, strict=True)
    ]
    return [Injection(str(number), next(draws[h])) for number, h in enumerate(last.tolist(), sum(taken))]


def _strata_of(pieces: Sequence[Piece]) -> Indices:
    return np.concatenate([np.zeros(0, np.intp), *(piece.strata for piece in pieces)])


def _from_each(draws: int, left: NDArray[np.int64]) -> Piece:
    return Piece(np.repeat(np.arange(len(left)), np.minimum(left, draws)), None)


def _chosen(numbers: Probabilities, probabilities: Probabilities, left: NDArray[np.int64]) -> Iterator[Piece]:
    """Yield draws by ``numbers`` (draws,) in [0, 1); a new piece begins where a stratum has lost its last fault."""
    while len(numbers) and left.any():
        current = np.where(left > 0, probabilities, 0.0)
        current = current / current.sum()
        limits = np.cumsum(current)
        chosen = np.searchsorted(limits / limits[-1], numbers[:_TOGETHER], side="right")
        last = min((_last_of(chosen, h, int(left[h])) for h in np.unique(chosen).tolist()), default=len(chosen))
        yield Piece(chosen[:last], current)
        left = left - np.bincount(chosen[:last], minlength=len(left))
        numbers = numbers[last:]


def _last_of(chosen: Indices, stratum: int, left: int) -> int:
    """Return the number of draws up to the one that takes the last fault of a stratum, or of all draws if none does."""
    hits = np.flatnonzero(chosen == stratum)
    return int(hits[left - 1]) + 1 if len(hits) >= left else len(chosen)
