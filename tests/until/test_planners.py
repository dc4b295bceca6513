"""Goals, the iterative method's published figures, and campaigns on paper that stop where they should."""

import numpy as np
import pytest

from bitswap_onnx.campaign.records import InterimEstimate
from bitswap_onnx.errors import BitswapError
from bitswap_onnx.sampling.rounds import choose_strata
from bitswap_onnx.stats.iterative_sfi import next_margin, planned, wald_margin
from bitswap_onnx.until.goal import Goal, UntilScheme, is_reached, parse_goal
from bitswap_onnx.until.planners import SCHEMES, add_round, interim_estimate


@pytest.mark.parametrize(
    ("text", "goal"),
    [
        ("critical±0.1%@99%", Goal("critical", 0.001, 0.99)),
        ("critical +- 0.00001 % @ 99.9999 %", Goal("critical", 1e-7, 0.999999)),
        ("sdc-10+/-2%@95%", Goal("sdc_10", 0.02, 0.95)),
    ],
)
def test_goals(text: str, goal: Goal) -> None:
    found = parse_goal(text)
    assert (found.quantity, found.margin, found.level) == (
        goal.quantity,
        *map(pytest.approx, (goal.margin, goal.level)),
    )
    assert parse_goal(str(found)) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "critical",
        "critical±0.1%",
        "±0.1%@99%",
        "critical±0%@99%",
        "critical±.1%@100%",
        "a±1.2.3%@5%",
        "critical±0.1@99%",
        "critical±1%@0.99",
    ],
)
def test_what_is_no_goal(text: str) -> None:
    with pytest.raises(BitswapError, match=r"`until`: expected a share.*like critical±0.1%@99%, found "):
        parse_goal(text)


def test_the_iterative_method_by_hand() -> None:
    population = 17_173_504
    assert planned(population, 0.05, 0.99) == 664  # the published pilot
    assert planned(population, 0.01, 0.99) == pytest.approx(16_588, abs=22)  # at 2.5758 for 2.58
    assert wald_margin(population, 664, 0.5, 0.99) == pytest.approx(0.05, rel=1e-3)
    assert wald_margin(1000, 1000, 0.5, 0.99) == 0
    assert next_margin(0.02, 0.01, 0.1) == 0.01  # a third of it is enough
    assert next_margin(0.06, 0.01, 0.25) == pytest.approx(4 * 0.01 * 0.1875 + 0.01)
    assert next_margin(0.06, 0.01, 0.5) == pytest.approx(0.02)


def run(scheme: UntilScheme, goal: Goal, values: list[np.ndarray], seed: int = 0) -> list[InterimEstimate]:
    rng = np.random.default_rng(seed)
    values = [rng.permutation(own) for own in values]
    sizes = [len(own) for own in values]
    taken = [iter(own) for own in values]
    planner = SCHEMES[scheme](np.array(sizes, float), np.arange(len(sizes)), goal)
    rounds, estimates = [planner.begin()], []
    while True:
        *_, pieces = choose_strata(rounds, sizes, seed)
        drawn = [next(taken[stratum]) for piece in pieces for stratum in piece.strata.tolist()]
        add_round(planner, pieces, np.array(drawn), goal.margin)
        estimates.append(interim_estimate(planner, goal, len(rounds), 0))
        if is_reached(estimates[-1], goal) or not planner.ledger.left.any():
            return estimates
        rounds.append(planner.go_on())


def test_a_rare_stratum_is_found_and_a_goal_reached() -> None:
    values = [np.zeros(20_000), (np.arange(1000) < 400).astype(float)]
    estimates = run("stratified", Goal("critical", 0.01, 0.99), values)
    assert (estimates[-1].high - estimates[-1].low) / 2 <= 0.01 < (estimates[-2].high - estimates[-2].low) / 2
    assert estimates[-1].low <= 400 / 21_000 <= estimates[-1].high
    assert estimates[-1].injections < 2_000
    sizes = [one.injections for one in estimates]
    assert sizes == sorted(set(sizes))
    assert sizes[0] == 4


def test_a_goal_that_takes_all_ends_with_the_truth() -> None:
    values = [np.linspace(0, 1, 30), np.full(7, 0.5), np.ones(1)]
    last = run("stratified", Goal("critical", 1e-9, 0.99), values)[-1]
    assert last.injections == 38
    assert last.low == last.mean == last.high == pytest.approx((15 + 3.5 + 1) / 38)


def test_the_iterative_method_plans_its_pilot_at_least() -> None:
    last = run("stratified", Goal("critical", 0.1, 0.9), [np.zeros(20_000)])[-1]
    assert last.mean == 0
    assert last.iterative == planned(20_000, 0.05, 0.9) > 200


def test_the_iterative_method_stops_at_once_where_it_hit_nothing() -> None:
    """Its margin is 0 then: one in 2,000 faults does harm, the method sees none and is sure."""
    values = np.zeros(20_000)
    values[:10] = 1
    estimates = [run("iterative", Goal("critical", 0.001, 0.99), [values], seed)[-1] for seed in range(12)]
    pilot = planned(20_000, 0.05, 0.99)
    assert any(one.injections == pilot and one.low == one.high == 0 for one in estimates)
