"""Samples that grow in rounds: distinct, in range, the same for every division into rounds, with the set probabilities."""

from collections import Counter

import numpy as np
from scipy import stats

from bitswap_onnx.faults.fault import Kind
from bitswap_onnx.sampling.rounds import Piece, Round, choose_strata, injections_of_last
from bitswap_onnx.sampling.strata import Pattern, Region, Stratum

FLIPS = Pattern((Kind.FLIP,))


def stratum(name: str, elements: int, bits: tuple[int, ...]) -> Stratum:
    return Stratum(name, (Region(name, name, (name, None), "float32", (elements,), bits),))


STRATA = (stratum("a", 50, (30, 31)), stratum("b", 3, (30,)), stratum("c", 1, (31,)))
SIZES = [100, 3, 1]


def drawn(rounds: list[Round], seed: int = 0) -> list[tuple[str, str, tuple[int, ...], int | None]]:
    """Return id, layer, element and bit of all injections of all rounds."""
    found = []
    for end in range(1, len(rounds) + 1):
        for injection in injections_of_last(rounds[:end], STRATA, FLIPS, seed):
            (fault,) = injection.faults
            found.append((injection.id, fault.layer, fault.index, fault.bit))
    return found


def chosen(rounds: list[Round], seed: int = 0) -> list[list[Piece]]:
    return list(choose_strata(rounds, SIZES, seed))


def test_all_are_distinct_and_numbered_through_until_nothing_is_left() -> None:
    rounds = [Round(2), Round(20, (0.5, 0.3, 0.2)), Round(200, (0.5, 0.3, 0.2)), Round(5, (1 / 3, 1 / 3, 1 / 3))]
    found = drawn(rounds)
    assert [int(number) for number, *_ in found] == list(range(104))
    assert len({one[1:] for one in found}) == 104
    assert [sum(len(piece.strata) for piece in pieces) for pieces in chosen(rounds)] == [5, 20, 79, 0]


def test_a_pilot_takes_as_many_of_each_as_there_are() -> None:
    (piece,) = chosen([Round(2)])[0]
    assert piece.probabilities is None
    assert piece.strata.tolist() == [0, 0, 1, 1, 2]


def test_the_seed_decides_and_rounds_do_not() -> None:
    half = (0.6, 0.3, 0.1)
    assert drawn([Round(30, half)]) == drawn([Round(10, half), Round(20, half)])
    assert drawn([Round(30, half)]) != drawn([Round(30, half)], seed=1)


def test_a_whole_stratum_still_comes_in_random_order() -> None:
    """Draw by draw, all that is left must be equally likely: an order by place would not be."""
    orders = [
        [bit for _, layer, _, bit in drawn([Round(200, (0.9, 0.05, 0.05))], seed) if layer == "a"] for seed in range(20)
    ]
    assert all(order != sorted(order, key=lambda bit: bit or 0) for order in orders)
    firsts = [drawn([Round(1, (1.0, 0.0, 0.0))], seed)[0][2][0] for seed in range(500)]
    assert stats.chisquare(np.bincount(np.array(firsts) // 10, minlength=5)).pvalue > 1e-4


def test_probabilities_are_kept_and_pass_on_where_nothing_is_left() -> None:
    rounds = [Round(40_000, (0.7, 0.2, 0.1))]
    drawn = np.concatenate([piece.strata for piece in next(iter(choose_strata(rounds, [10**9] * 3, 0)))])
    assert stats.chisquare(np.bincount(drawn), np.array([0.7, 0.2, 0.1]) * 40_000).pvalue > 1e-4
    for before, after in zip(pieces := chosen([Round(200, (0.2, 0.4, 0.4))])[0], pieces[1:], strict=False):
        assert before.probabilities is not None
        assert after.probabilities is not None
        emptied = before.strata[-1]
        assert before.probabilities[emptied] > 0 == after.probabilities[emptied]
        assert after.probabilities.sum() == 1
    assert len(pieces) == 3


def test_with_replacement_every_fault_is_as_likely_every_time() -> None:
    """With replacement no stratum is ever exhausted, and faults are drawn several times."""
    rounds = [Round(2), Round(6_000, (0.5, 0.25, 0.25))]
    found = injections_of_last(rounds, STRATA, FLIPS, 3, with_replacement=True)
    assert [int(one.id) for one in found] == list(range(6, 6_006))
    (pieces,) = list(choose_strata(rounds, SIZES, 3, with_replacement=True))[1:]
    assert all(
        piece.probabilities is not None and piece.probabilities.tolist() == [0.5, 0.25, 0.25] for piece in pieces
    )
    places = [(fault.layer, fault.index[0], fault.bit) for one in found for fault in one.faults]
    for layer, size in zip("abc", SIZES, strict=True):
        counts = Counter(place for place in places if place[0] == layer)
        assert len(counts) == size
        assert size == 1 or stats.chisquare(list(counts.values())).pvalue > 1e-4
    assert [one.faults for one in found][:50] == [
        one.faults
        for one in injections_of_last([Round(2), Round(50, (0.5, 0.25, 0.25))], STRATA, FLIPS, 3, with_replacement=True)
    ]


def test_pinned_draws() -> None:
    """The draws of one seed, written down: every machine and version draws the same."""
    (piece,) = next(iter(choose_strata([Round(12, (0.25, 0.25, 0.5))], [10**6] * 3, 7)))
    assert piece.strata.tolist() == PINNED


PINNED = [1, 2, 0, 2, 2, 1, 0, 2, 0, 2, 0, 2]
