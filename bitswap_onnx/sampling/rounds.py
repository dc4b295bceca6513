"""A sample that grows in rounds: which stratum each draw takes is drawn too, with probabilities that each round sets.

Within its stratum, every draw takes one of the faults that are left, all alike; or, ``again``, one of all there are, however
often it came before: where each injection runs over inputs of its own, the same fault tells something new. Like everything
here it follows from the seed alone: the rounds so far say which faults they took, on every machine.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.faults.fault import Injection
from bitswap_onnx.sampling.draws import draw, permute
from bitswap_onnx.sampling.strata import Pattern, Stratum

Members = NDArray[np.intp]
Probabilities = NDArray[np.float64]

#: A stratum that is never exhausted.
_ENDLESS = 1 << 62
#: Draws that are looked at together for one that takes the last of a stratum.
_TOGETHER = 4096
#: Numbers are drawn with 63 bits, of which a float holds 53.
_BITS, _KEPT = 63, 53


@dataclass(frozen=True, slots=True)
class Round:
    """``draws`` draws from strata that are chosen with ``probabilities`` (strata,); None: that many from each stratum.

    A stratum with nothing left leaves its probability to the others, in proportion.
    """

    draws: int
    probabilities: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """Draws in a row with the same ``probabilities`` (strata,) or None: the stratum of each, (draws,)."""

    strata: Members
    probabilities: Probabilities | None


def choose_strata(
    rounds: Sequence[Round], populations: Sequence[int], seed: int, *, with_replacement: bool = False
) -> Iterator[list[Piece]]:
    """Yield the draws of each round, in order. A round ends early where nothing is left."""
    left = np.array([_ENDLESS if with_replacement else size for size in populations], np.int64)
    drawn = 0
    for one in rounds:
        pieces = [_each(one.draws, left)] if one.probabilities is None else []
        if one.probabilities is not None:
            numbers = permute(np.arange(drawn, drawn + one.draws, dtype=np.uint64), 1 << _BITS, f"{seed}/strata")
            numbers = numbers >> np.uint64(_BITS - _KEPT)
            pieces = list(_chosen(numbers / (1 << _KEPT), np.array(one.probabilities), left))
        for piece in pieces:
            left -= np.bincount(piece.strata, minlength=len(left))
            drawn += len(piece.strata)
        yield pieces


def injections_of_last(
    rounds: Sequence[Round], strata: Sequence[Stratum], pattern: Pattern, seed: int, *, with_replacement: bool = False
) -> list[Injection]:
    """Return the injections of the last round, in the order of its draws; all rounds' are numbered through from 0."""
    populations = [pattern.population(stratum.slots) for stratum in strata]
    *before, last = (
        _strata_of(pieces) for pieces in choose_strata(rounds, populations, seed, with_replacement=with_replacement)
    )
    taken = np.bincount(np.concatenate([np.zeros(0, np.intp), *before]), minlength=len(strata)).tolist()
    more = np.bincount(last, minlength=len(strata)).tolist()
    own = [
        draw(stratum, pattern, seed, start + count, start, order="with_replacement" if with_replacement else "drawn")
        for stratum, start, count in zip(strata, taken, more, strict=True)
    ]
    return [Injection(str(number), next(own[h])) for number, h in enumerate(last.tolist(), sum(taken))]


def _strata_of(pieces: Sequence[Piece]) -> Members:
    return np.concatenate([np.zeros(0, np.intp), *(piece.strata for piece in pieces)])


def _each(draws: int, left: NDArray[np.int64]) -> Piece:
    return Piece(np.repeat(np.arange(len(left)), np.minimum(left, draws)), None)


def _chosen(numbers: Probabilities, probabilities: Probabilities, left: NDArray[np.int64]) -> Iterator[Piece]:
    """Yield draws by ``numbers`` (draws,) in [0, 1), a new piece after each one that takes the last of a stratum."""
    while len(numbers) and left.any():
        own = np.where(left > 0, probabilities, 0.0)
        own = own / own.sum()
        limits = np.cumsum(own)
        chosen = np.searchsorted(limits / limits[-1], numbers[:_TOGETHER], side="right")
        last = min((_last_of(chosen, h, int(left[h])) for h in np.unique(chosen).tolist()), default=len(chosen))
        yield Piece(chosen[:last], own)
        left = left - np.bincount(chosen[:last], minlength=len(left))
        numbers = numbers[last:]


def _last_of(chosen: Members, stratum: int, left: int) -> int:
    """Return behind which draw a stratum with so many ``left`` has none, or how many draws there are."""
    own = np.flatnonzero(chosen == stratum)
    return int(own[left - 1]) + 1 if len(own) >= left else len(chosen)
