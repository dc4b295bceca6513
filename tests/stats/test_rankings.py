"""Scores of layer rankings: hand arithmetic, all permutations, scipy, coverage by simulation."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bitswap_onnx.errors import BitswapError
from bitswap_onnx.stats.intervals import Values
from bitswap_onnx.stats.rankings import (
    ALIKE,
    FIRST_BETTER,
    SECOND_BETTER,
    LayerOrder,
    RankingFromInputs,
    rank_agreement,
    ranking_score,
    s_curve,
    score_bounds,
    score_difference,
    score_ranking,
    score_weights,
)

FIVE = np.array([0.9, 0.5, 0.8, 0.6, 0.7])

shares = st.lists(st.integers(0, 1000), min_size=1, max_size=30).map(lambda counts: np.array(counts) / 1000)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def order(*layers: int) -> LayerOrder:
    return np.array(layers, np.intp)


def answers(accuracies: Values, inputs: int, seed: int = 0) -> Values:
    """Return right or wrong, (layers, inputs), where inputs that are hard are so for all layers."""
    draw = rng(seed)
    ease = draw.normal(size=inputs) + draw.normal(size=(len(accuracies), inputs))
    return np.asarray(ease < np.sqrt(2) * stats.norm.ppf(accuracies)[:, None], np.float64)


def test_five_layers_by_hand() -> None:
    """In the given order, then as the bounds.

    S = 90, (90+50)/2 = 70, (140+80)/3 = 73 1/3, (220+60)/4 = 70, (280+70)/5 = 70; their mean is 373 1/3 / 5 = 74 2/3.
    Oracle .5 .6 .7 .8 .9: 50, 55, 60, 65, 70, mean 60. Worst: 90, 85, 80, 75, 70, mean 80. Random: 70.
    """
    assert s_curve(FIVE) == pytest.approx([90, 70, 220 / 3, 70, 70])
    assert ranking_score(FIVE) == pytest.approx(224 / 3)
    found = score_bounds(FIVE)
    assert (found.oracle, found.random, found.worst) == pytest.approx((60, 70, 80))


def test_weights_by_hand() -> None:
    """H_3 = 11/6: (11/6, 11/6 - 1, 11/6 - 3/2) / 3 = 11/18, 5/18, 2/18."""
    assert score_weights(3) == pytest.approx([11 / 18, 5 / 18, 2 / 18])
    assert score_weights(1).tolist() == [1]


@given(shares)
def test_closed_form_is_the_mean_of_the_curve(accuracies: Values) -> None:
    assert ranking_score(accuracies) == pytest.approx(s_curve(accuracies).mean())


@given(shares, st.integers(0, 2**32))
def test_every_order_lies_between_the_bounds(accuracies: Values, seed: int) -> None:
    """Exactly, without a tolerance."""
    found = score_bounds(accuracies)
    assert found.oracle <= ranking_score(rng(seed).permutation(accuracies)) <= found.worst


@pytest.mark.parametrize("accuracies", [FIVE, np.array([1, 1, 0.25, 0.25, 0.5]), np.full(5, 0.1), np.array([0.3])])
def test_all_permutations(accuracies: Values) -> None:
    scores = np.array([ranking_score(np.array(shuffled)) for shuffled in permutations(accuracies)])
    found = score_bounds(accuracies)
    assert (scores.min(), scores.max()) == (found.oracle, found.worst)
    assert (found.random, found.random_sd) == pytest.approx((scores.mean(), scores.std()), abs=1e-9)


def test_a_partial_order_is_scored_over_its_own_layers() -> None:
    per_input = np.vstack([answers(FIVE, 400), np.zeros((2, 400))])
    found = score_ranking(order(3, 0, 2), per_input, rng(), draws=50)
    alone = score_ranking(order(2, 0, 1), per_input[[0, 2, 3]], rng(), draws=50)
    assert (found.layers, found.all_layers, alone.all_layers) == (3, 7, 3)
    assert (found.score, found.in_sample, found.normalised) == (alone.score, alone.in_sample, alone.normalised)
    assert found.score.value == pytest.approx(s_curve(per_input.mean(axis=1)[[3, 0, 2]]).mean())


def test_trials_of_an_input_are_one_unit() -> None:
    """Means over copies of a trial change nothing, where copies as inputs of their own would narrow the interval."""
    per_input = answers(FIVE, 300)
    copied = np.tile(per_input[:, None], (1, 10, 1)).mean(axis=1)
    ends = [score_ranking(order(*range(5)), each, rng(), draws=200).score for each in (per_input, copied)]
    assert (ends[0].low, ends[0].high) == pytest.approx((ends[1].low, ends[1].high))


def test_scores_interval_is_that_of_a_mean() -> None:
    """The score is linear: 1.96 standard errors of the inputs' own scores."""
    per_input = answers(FIVE, 1000)
    found = score_ranking(order(*range(5)), per_input, rng()).score
    input_scores = 100 * score_weights(5) @ per_input
    expected = stats.norm.interval(0.95, input_scores.mean(), stats.sem(input_scores))
    assert (found.low, found.high) == pytest.approx(expected, abs=0.2)


def test_the_best_order_and_its_reverse() -> None:
    """Layers far apart: all halves order them right, so that both oracles are one."""
    accuracies = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
    per_input = answers(accuracies, 2000)
    best, worst = (
        score_ranking(each, per_input, rng(), draws=200) for each in (order(*range(5)), order(*range(5))[::-1])
    )
    assert best.cross_fitted_oracle == pytest.approx(best.in_sample.oracle, abs=0.01)
    assert (best.normalised.value, best.normalised_in_sample) == pytest.approx((1, 1), abs=0.001)
    mean = per_input.mean(axis=1)
    expected = (mean.mean() - score_weights(5) @ mean[::-1]) / (mean.mean() - score_weights(5) @ mean)
    assert worst.normalised_in_sample == pytest.approx(expected)
    assert worst.normalised.high < 0


def test_equal_layers_have_no_normalised_score() -> None:
    per_input = np.tile(answers(np.array([0.7]), 50), (4, 1))
    found = score_ranking(order(2, 0, 1, 3), per_input, rng(), draws=50)
    assert np.isnan([found.normalised.value, found.normalised_in_sample]).all()
    single = score_ranking(order(1), answers(FIVE, 40), rng(), draws=50)
    assert np.isnan(single.normalised.value)
    assert single.in_sample.random_sd == 0


def test_noise_alone_does_not_settle_the_normalised_score() -> None:
    """Layers that do not differ: the in-sample oracle finds an order all the same, the cross-fitted one does not."""
    per_input = (rng().random((10, 200)) < 0.7).astype(np.float64)
    found = score_ranking(order(*range(10)), per_input, rng(), draws=200)
    assert found.in_sample.oracle < found.cross_fitted_oracle - 1
    assert (found.normalised.low, found.normalised.high) == (-np.inf, np.inf)


def test_too_few_inputs_to_halve() -> None:
    found = score_ranking(order(0, 1, 2, 3, 4), answers(FIVE, 1), rng(), draws=20)
    assert np.isnan([found.cross_fitted_oracle, found.normalised.value]).all()


def test_the_best_orders_score_lies_between_the_oracles() -> None:
    """20 layers, 200 inputs, 60 samples: in the mean of the samples, by more than four standard errors each."""
    accuracies = np.linspace(0.5, 0.9, 20)
    found = [score_ranking(order(*range(20)), answers(accuracies, 200, seed), rng(seed), draws=1) for seed in range(60)]
    for excess in (
        np.array([each.cross_fitted_oracle - each.score.value for each in found]),
        np.array([each.score.value - each.in_sample.oracle for each in found]),
    ):
        assert excess.mean() > 4 * stats.sem(excess)


def test_normalised_interval_covers() -> None:
    """10 layers, 400 inputs, 60 samples; the truth is known. 95 % less four standard errors of a share of 60 is 84 %."""
    accuracies = np.linspace(0.55, 0.9, 10)
    mine = order(1, 0, 3, 2, 6, 4, 5, 9, 8, 7)
    truth = (70 + 2.5 - ranking_score(accuracies[mine])) / (72.5 - ranking_score(accuracies))
    hits = 0
    for seed in range(60):
        found = score_ranking(mine, answers(accuracies, 400, seed), rng(seed), draws=200).normalised
        hits += found.low <= truth <= found.high
    assert hits >= 0.84 * 60


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        ((1, 3, 4, 2, 0), (0, 2, 4, 3, 1), FIRST_BETTER),
        ((0, 2, 4, 3, 1), (1, 3, 4, 2, 0), SECOND_BETTER),
        ((1, 3, 4, 2, 0), (1, 3, 4, 2, 0), ALIKE),
        ((5, 6, 0), (6, 5, 0), ALIKE),
    ],
)
def test_score_difference(a: tuple[int, ...], b: tuple[int, ...], verdict: str) -> None:
    per_input = answers(np.append(FIVE, [0.7, 0.7]), 500)
    found = score_difference(order(*a), order(*b), per_input, rng(), draws=500)
    mean = per_input.mean(axis=1)
    assert found.verdict == verdict
    assert found.layers == len(a)
    assert found.score.value == pytest.approx(ranking_score(mean[list(a)]) - ranking_score(mean[list(b)]))
    differences = 100 * (score_weights(len(a)) @ per_input[list(a)] - score_weights(len(b)) @ per_input[list(b)])
    expected = (0.0, 0.0)
    if differences.any():
        expected = stats.norm.interval(0.95, differences.mean(), stats.sem(differences))
    assert (found.score.low, found.score.high) == pytest.approx(expected, abs=0.6)


def test_score_difference_is_over_the_common_layers() -> None:
    per_input = answers(FIVE, 100)
    found = score_difference(order(4, 1, 0), order(0, 3, 1, 2), per_input, rng(), draws=20)
    mean = per_input.mean(axis=1)
    assert found.layers == 2
    assert found.score.value == pytest.approx(ranking_score(mean[[1, 0]]) - ranking_score(mean[[0, 1]]))
    with pytest.raises(BitswapError, match="share at least 2 layers, found 1; rank more"):
        score_difference(order(4, 1), order(1, 2), per_input, rng())


@pytest.mark.parametrize(
    ("a", "b", "top", "overlap"),
    [
        ((0, 1, 2, 3, 4), (0, 1, 2, 3, 4), 2, 1),
        ((0, 1, 2, 3, 4), (4, 3, 2, 1, 0), 2, 0),
        ((0, 1, 2, 3, 4), (1, 0, 3, 2, 4), 3, 2 / 3),
        ((7, 1, 2, 3), (1, 7, 0, 2), 2, 1),
        ((7, 1, 2, 3), (0, 2, 1, 5), 2, 0),
    ],
)
def test_agreement_of_fixed_orders(a: tuple[int, ...], b: tuple[int, ...], top: int, overlap: float) -> None:
    found = rank_agreement(order(*a), order(*b), top, rng(), draws=200)
    common = sorted(set(a) & set(b))
    expected = stats.kendalltau([a.index(i) for i in common], [b.index(i) for i in common]).statistic
    assert (found.tau.value, found.overlap.value) == pytest.approx((expected, overlap))
    assert (found.common, found.top, found.sampled) == (len(common), top, "layers")
    assert -1 - 1e-12 <= found.tau.low <= found.tau.high <= 1 + 1e-12
    assert 0 <= found.overlap.low <= found.overlap.high <= 1


def test_layers_bootstrap_is_scipys() -> None:
    a, b = rng(1).permutation(30), rng(2).permutation(30)
    b = np.where(rng(3).random(30) < 0.5, a, b)
    b = np.array(list(dict.fromkeys([*b.tolist(), *range(30)])))
    places = np.argsort(a), np.argsort(b)
    expected = stats.bootstrap(
        places,
        lambda x, y: stats.kendalltau(x, y).statistic,
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=1000,
        rng=rng(),
    ).confidence_interval
    found = rank_agreement(a, b, 5, rng(), draws=1000).tau
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.05)


def test_a_ranking_from_data_varies_with_the_inputs() -> None:
    sure, unsure = answers(np.array([0.1, 0.5, 0.9]), 2000), answers(np.array([0.5, 0.5, 0.5]), 2000)
    found = rank_agreement(RankingFromInputs(sure), order(0, 1, 2), 1, rng(), draws=100)
    assert (found.tau.value, found.tau.low, found.tau.high, found.overlap.low) == pytest.approx((1, 1, 1, 1))
    assert (found.sampled, found.common) == ("inputs", 3)
    found = rank_agreement(order(0, 1, 2), RankingFromInputs(unsure), 1, rng(), draws=400)
    assert found.tau.low < 0 < found.tau.high
    same = RankingFromInputs(unsure)
    found = rank_agreement(same, same, 1, rng(), draws=100)  # the same draws for both
    assert (found.tau.low, found.overlap.low) == pytest.approx((1, 1))


@pytest.mark.parametrize("top", [0, 3])
def test_agreement_refuses(top: int) -> None:
    with pytest.raises(BitswapError, match=f"`top`: expected 1 to 2, the layers of the shorter ranking, found {top}"):
        rank_agreement(order(0, 1), order(1, 2, 0), top, rng())
    with pytest.raises(BitswapError, match="share at least 2 layers, found 0"):
        rank_agreement(order(0, 1), order(2, 3), 1, rng())
