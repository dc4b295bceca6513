"""Failures in time: hand calculations, and rates that give none."""

import math
from pathlib import Path

import pytest
from scipy import stats

from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.errors import BitswapError, RunError
from bitswap_onnx.estimates.fit import Operation, failures
from bitswap_onnx.estimates.question import Question
from bitswap_onnx.estimates.rates import Rates, estimate_rates
from bitswap_onnx.faults.fault import Fault, Injection, Kind
from bitswap_onnx.faults.fault_list import write_fault_list
from tests.builders import cnn, save
from tests.recorded import recorded_of
from tests.results_file import results


def drawn(tmp_path: Path) -> Rates:
    """20 faults, 5 of which are critical on half of their inputs."""
    rows = [f"{i},fc,({i}),30,10,5,0,5" if i < 5 else f"{i},fc,({i}),3,10,10,0,0" for i in range(20)]
    return estimate_rates(results(tmp_path, *rows), Question(theta=0.5))


def test_fit_by_hand(tmp_path: Path) -> None:
    """1000 FIT/Mbit x 3.6 Mbit = 3600 upsets per 1e9 h = 1e-9 per second; a quarter harmful; each stays 1000 s."""
    fit = failures(drawn(tmp_path), Operation(fit_per_mbit=1000, mbit="1e6", residency=1000, memory_bits=3_600_000))
    assert (fit.upsets, fit.fit, fit.theta) == pytest.approx((3600, 900, 0.5))
    limits = stats.binomtest(5, 20).proportion_ci(0.95)
    assert (fit.low, fit.high) == pytest.approx((3600 * limits.low, 3600 * limits.high))
    assert (fit.at_a_time, fit.harmed_time, fit.critical_share) == pytest.approx((1e-6, 0.25e-6, 0.125e-6))
    binary = failures(drawn(tmp_path), Operation(fit_per_mbit=1000, mbit="2^20", residency=1000, memory_bits=3_600_000))
    assert binary.fit == pytest.approx(900 * 1e6 / 2**20)


def test_fit_is_refused_where_it_means_nothing(tmp_path: Path) -> None:
    rates = drawn(tmp_path)
    with pytest.raises(RunError, match="the size of the memory is not known; give `memory_bits`"):
        failures(rates, Operation(fit_per_mbit=1, mbit="1e6", residency=1))
    with pytest.raises(RunError, match=r"expected at most 0\.1 upsets in memory on average, found 1e\+03"):
        failures(rates, Operation(fit_per_mbit=1e9, mbit="1e6", residency=3.6e6, memory_bits=1_000_000))
    with pytest.raises(BitswapError, match="`mbit`: expected the size of a Mbit, one of 1e6, 2\\^20, found '1'"):
        Operation(fit_per_mbit=1, mbit="1", residency=1)
    for wrong in ({"fit_per_mbit": 0}, {"residency": -1}, {"memory_bits": 0}, {"fit_per_mbit": math.nan}):
        with pytest.raises(BitswapError, match=r"above 0|at least 1"):
            Operation(**({"fit_per_mbit": 1, "mbit": "1e6", "residency": 1} | wrong))  # type: ignore[arg-type]
    operation = Operation(fit_per_mbit=1, mbit="1e6", residency=1, memory_bits=32)
    with pytest.raises(RunError, match="1 faults are too few for a FIT figure"):
        failures(estimate_rates(results(tmp_path, "a,fc,(0),1,1,1,0,0")), operation)
    pairs = estimate_rates(results(tmp_path, "a,fc,(0),1,1,1,0,0", "a,fc,(0),2,1,1,0,0"))
    with pytest.raises(RunError, match="needs injections of one flip of a stored bit each"):
        failures(pairs, operation)


def test_fit_takes_the_designs_bits(run: Path) -> None:
    rates = estimate_rates(run, Question(theta=0.1), run.parent / "f.design.json")
    fit = failures(rates, Operation(fit_per_mbit=500, mbit="1e6", residency=10))
    assert fit.bits == (27 + 192) * 32


def test_stuck_at_faults_are_no_upsets(tmp_path: Path) -> None:
    save(cnn(), tmp_path / "cnn.onnx")
    write_fault_list(tmp_path / "f.csv", [Injection("a", (Fault("fc", (0, 0), 30, Kind.STUCK_AT_1),))])
    run_campaign(
        prepare(tmp_path / "cnn.onnx", Settings(data="synthetic:3")),
        tmp_path / "f.csv",
        options=RunOptions(run=tmp_path / "run", workers=1),
    )
    assert not recorded_of(tmp_path / "run").single_flips
    assert "accuracy_drop" not in {row.quantity for row in estimate_rates(tmp_path / "run").rows}
