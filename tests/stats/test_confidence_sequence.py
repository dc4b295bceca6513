"""The confidence sequence against independent results: conditional means, small populations, a known bound."""

import numpy as np
import pytest
from scipy import stats

from bitswap_onnx.sampling.rounds import Piece, Round, choose_strata
from bitswap_onnx.stats.allocation import allocate
from bitswap_onnx.stats.confidence_sequence import Ledger

LEVEL = 0.9


class World:
    """Strata of known values, drawn in rounds as a campaign draws them."""

    def __init__(self, values: list[np.ndarray], seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.values = [rng.permutation(own) for own in values]
        self.sizes = [len(own) for own in values]
        self.mean = float(np.concatenate(values).mean())
        self.taken = [0] * len(values)
        self.seed = seed
        self.rounds: list[Round] = []

    def draw(self, one: Round) -> list[tuple[Piece, np.ndarray]]:
        self.rounds.append(one)
        *_, pieces = choose_strata(self.rounds, self.sizes, self.seed)
        return [(piece, np.array([self._next(stratum) for stratum in piece.strata.tolist()])) for piece in pieces]

    def _next(self, stratum: int) -> float:
        self.taken[stratum] += 1
        return float(self.values[stratum][self.taken[stratum] - 1])


def small_world(seed: int) -> World:
    """Three strata: rare ones, a spread-out one, and one without spread."""
    rng = np.random.default_rng(seed)
    rare = (np.arange(80) < 3).astype(float)
    return World([rare, rng.beta(0.5, 0.5, 20), np.full(12, 0.25)], seed)


def begin(world: World) -> Ledger:
    ledger = Ledger(np.array(world.sizes, float), np.array([0, 1, 1]))
    for piece, values in world.draw(Round(2)):
        ledger.add(piece.strata, values, piece.probabilities, 0.05)
    return ledger


@pytest.mark.parametrize("seed", range(5))
def test_every_next_term_has_the_mean_of_the_population(seed: int) -> None:
    world = small_world(seed)
    ledger = begin(world)
    probabilities = np.array([0.5, 0.3, 0.2])
    for piece, values in world.draw(Round(10 * seed, tuple(probabilities))):
        ledger.add(piece.strata, values, piece.probabilities, 0.05)
    expected = 0.0
    for stratum, own in enumerate(world.values):
        left = own[world.taken[stratum] :]
        for value in left:
            one = Ledger(ledger.populations, ledger.family)
            one.drawn, one.sums, one.squares = ledger.drawn.copy(), ledger.sums.copy(), ledger.squares.copy()
            one.add(np.array([stratum]), np.array([value]), probabilities, 0.05)
            (term,), (least,), (most,) = one.terms, one.least, one.most
            assert least - 1e-12 <= term <= most + 1e-12
            expected += probabilities[stratum] / len(left) * float(term)
    assert expected == pytest.approx(world.mean, abs=1e-12)


@pytest.mark.slow
def test_many_looks_hold_together_and_a_census_is_exact() -> None:
    missed = 0
    for seed in range(120):
        world = small_world(seed)
        ledger, ever = begin(world), False
        while ledger.left.any():
            found = ledger.interval(LEVEL)
            assert 0 <= found.low <= found.mean <= found.high <= 1
            ever |= not found.low - 1e-9 <= world.mean <= found.high + 1e-9
            probabilities, draws = allocate(ledger, LEVEL, 0.05)
            for piece, values in world.draw(Round(min(draws, 10), tuple(probabilities))):
                ledger.add(piece.strata, values, piece.probabilities, 0.05)
        missed += ever
        assert ledger.interval(LEVEL) == pytest.approx((world.mean,) * 3, abs=1e-12)
    assert missed <= stats.binom.ppf(0.999, 120, 1 - LEVEL)


def test_values_that_are_estimates_never_count_as_known() -> None:
    """Faults over a few inputs of their own, drawn with replacement: many more draws than faults, many intervals."""
    missed, shares = 0, [np.array([0.02, 0.0, 0.3]), np.array([0.6, 0.9])]
    sizes = np.array([len(own) for own in shares], float)
    truth = float(np.concatenate(shares).mean())
    for seed in range(150):
        rng, ledger, ever = np.random.default_rng(seed), Ledger(sizes, np.array([0, 1]), with_replacement=True), False
        for number in range(12):
            probabilities = np.array([0.5, 0.5]) if number % 2 else np.array([0.7, 0.3])
            strata = rng.choice(2, 60, p=probabilities)
            values = rng.binomial(4, [rng.choice(shares[stratum]) for stratum in strata]) / 4
            ledger.add(strata, values, probabilities, 0.05)
            found = ledger.interval(LEVEL)
            ever |= not found.low <= truth <= found.high
        assert 0 < (found.high - found.low) / 2 < 0.1
        missed += ever
    assert missed <= stats.binom.ppf(0.999, 150, 1 - LEVEL)


def test_nothing_seen_bounds_no_tighter_than_it_may() -> None:
    """Where n draws hit nothing, no valid upper limit lies below 1 - (alpha / 2)^(1/n), Clopper and Pearson's."""
    for n in (50, 500, 5000):
        ledger = Ledger(np.array([1e12]), np.array([0]))
        ledger.add(np.zeros(n, np.intp), np.zeros(n), np.ones(1), 1 / n)
        found = ledger.interval(0.99)
        exact = 1 - 0.005 ** (1 / n)
        assert found.low == 0
        assert exact < found.high < 2.5 * exact


def test_without_draws_nothing_is_known() -> None:
    found = Ledger(np.array([10.0, 20.0]), np.array([0, 1])).interval(0.99)
    assert (found.low, found.high) == (0, 1)


def test_more_goes_where_the_spread_is_and_some_everywhere() -> None:
    ledger = Ledger(np.array([970e6, 30e6]), np.array([0, 1]))
    ledger.add(np.repeat([0, 1], 200), np.concatenate([np.zeros(200), np.arange(200) % 2]), None, 0.002)
    probabilities, draws = allocate(ledger, 0.99, 0.002)
    assert probabilities.sum() == pytest.approx(1)
    assert 0.03 * 5 < probabilities[1] < 0.5
    assert probabilities[0] >= 0.1 * 0.97
    assert 40 <= draws <= 400  # no more than there were, no less than a tenth of them
