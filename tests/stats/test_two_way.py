"""Rates over faults and inputs that both were drawn: hand calculations, numpy as oracle, simulations, runs, refusals."""

import csv
import json
import math
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.errors import RunError
from bitswap_onnx.estimates.fit import Operation, failures
from bitswap_onnx.estimates.groups import ALL
from bitswap_onnx.estimates.input_design import CONDITIONAL
from bitswap_onnx.estimates.names import CURVE, HARMFUL, SCOPES
from bitswap_onnx.estimates.question import Question
from bitswap_onnx.estimates.rates import estimate_rates
from bitswap_onnx.estimates.rates_files import as_record, write_csv
from bitswap_onnx.faults.fault import Fault, Injection, Site
from bitswap_onnx.faults.fault_list import read_fault_list
from bitswap_onnx.graph.model import load_model
from bitswap_onnx.sampling.generate import generate_faults
from bitswap_onnx.sampling.request import SamplingRequest
from bitswap_onnx.stats.stratified import Bounded, Estimate, Strata, Weights, estimate_mean, frame_of, weigh
from bitswap_onnx.stats.two_way import InputPart, Margins, add_stratum, over_inputs, residual_variance
from tests.builders import cnn, normal, save

Matrix = NDArray[np.float64]
INPUTS = 40


def margins(matrix: Matrix) -> Margins:
    return Margins(matrix.sum(axis=1), matrix.sum(axis=0))


def crossed(matrix: Matrix, strata: Strata | None, level: float = 0.95) -> tuple[Estimate, Estimate, InputPart]:
    """The conditional and the two-way estimate of a matrix of zeros and ones, and the part of its inputs."""
    frame, member = frame_of("", len(matrix), strata), np.arange(len(matrix))
    part = inputs_of(matrix, weigh(frame, member))
    found = estimate_mean(frame, member, Bounded(matrix.mean(axis=1)), level)
    return found, over_inputs(found, part, level), part


def inputs_of(matrix: Matrix, weights: Weights) -> InputPart:
    part = None
    for number, (share, unseen) in enumerate(zip(weights.shares, weights.unseen, strict=True)):
        part = add_stratum(part, margins(matrix[weights.member[weights.place == number]]), share, unseen)
    assert part is not None
    return part


def residuals(matrix: Matrix) -> float:
    """The residual mean square, by subtracting the means of rows and columns."""
    n, m = matrix.shape
    rest = matrix - matrix.mean(axis=1, keepdims=True) - matrix.mean(axis=0) + matrix.mean()
    return float((rest**2).sum() / ((n - 1) * (m - 1)))


def mixed(rng: np.random.Generator, faults: int, inputs: int) -> Matrix:
    """A matrix of zeros and ones in which faults differ, and inputs do."""
    chance = rng.beta(0.5, 1, faults)[:, None] * rng.beta(2, 1, inputs)
    return np.asarray(rng.random((faults, inputs)) < chance, np.float64)


# --- the mean of a matrix ----------------------------------------------------------------------------------------------


def test_three_faults_on_four_inputs() -> None:
    """Var = (1/16) / 3 + (5/27) / 4 - (5/36) / 12 = 1/18; the column means 2/3, 0, 1/3, 1 have the variance 5/27."""
    matrix = np.array([[1, 0, 0, 1], [0, 0, 0, 1], [1, 0, 1, 1]], np.float64)
    assert residual_variance(margins(matrix)) == pytest.approx(5 / 36)
    conditional, found, _ = crossed(matrix, None, 0.8)
    assert conditional.se**2 == pytest.approx(1 / 48)
    assert (found.mean, found.se**2) == pytest.approx((0.5, 1 / 18))
    half = stats.t.ppf(0.9, 3) * math.sqrt(5 / 27 / 4)
    assert found.low == pytest.approx(max(0, 0.5 - math.hypot(0.5 - conditional.low, half)))
    assert found.high == pytest.approx(min(1, 0.5 + math.hypot(conditional.high - 0.5, half)))


def test_one_stratum_is_the_random_effects_model() -> None:
    matrix = mixed(np.random.default_rng(1), 60, 25)
    n, m = matrix.shape
    rows, columns = (np.var(matrix.mean(axis=axis), ddof=1) for axis in (1, 0))
    assert crossed(matrix, None)[1].se ** 2 == pytest.approx(rows / n + columns / m - residuals(matrix) / n / m)


def test_strata_by_hand() -> None:
    """4 of 40 and 6 of 600 faults; the last stratum's one fault has no residual, and the group's spread."""
    matrix = mixed(np.random.default_rng(2), 11, 20)
    strata = Strata(("a", "b", "c"), (4, 6, 1), (40, 600, 60))
    a, b, c = matrix[:4], matrix[4:10], matrix[10:]
    faults = inputs = 0.0
    for own, weight, unseen in ((a, 40 / 700, 0.9), (b, 600 / 700, 0.99), (c, 60 / 700, 59 / 60)):
        spread = np.var((own if len(own) > 1 else matrix).mean(axis=1), ddof=1)
        faults += weight**2 * unseen * spread / len(own)
        inputs -= weight**2 * unseen * (residuals(own) if len(own) > 1 else 0) / len(own) / 20
    columns = (40 * a.mean(axis=0) + 600 * b.mean(axis=0) + 60 * c.mean(axis=0)) / 700
    conditional, found, part = crossed(matrix, strata)
    assert part.columns == pytest.approx(columns)
    assert conditional.se**2 == pytest.approx(faults)
    assert found.se**2 == pytest.approx(faults + max(inputs + np.var(columns, ddof=1) / 20, 0))
    assert found.mean == pytest.approx(columns.mean())


def test_a_group_of_known_sizes_by_hand() -> None:
    """30 and 60 faults of the group in two strata: 2 and 3 of them were drawn."""
    matrix = mixed(np.random.default_rng(7), 10, 20)
    frame = frame_of("", 10, Strata(("a", "b"), (4, 6), (40, 600)))
    part = inputs_of(matrix, weigh(frame, np.array([0, 1, 4, 5, 6]), np.array([30.0, 60.0])))
    a, b = matrix[:2], matrix[4:7]
    assert part.columns == pytest.approx(a.mean(axis=0) / 3 + 2 / 3 * b.mean(axis=0))
    assert part.excess == pytest.approx((1 - 2 / 30) * residuals(a) / 2 / 9 + (1 - 3 / 60) * residuals(b) / 3 * 4 / 9)


@pytest.mark.parametrize("finite", [False, True])
def test_the_variance_is_unbiased(finite: bool) -> None:
    """Its mean over samples is the variance of their means; faults of two strata with replacement, or most of them."""
    rng = np.random.default_rng(3)
    population = mixed(rng, 24, 30)
    sizes, wholes = (5, 9), (10, 14)
    strata = Strata(("a", "b"), sizes, wholes if finite else (10**6, 14 * 10**5))
    means, variances = [], []
    for _ in range(1500):
        first, second = (rng.choice(whole, size, not finite) for whole, size in zip(wholes, sizes, strict=True))
        sample = population[np.concatenate([first, 10 + second])][:, rng.integers(0, 30, 8)]
        conditional, _, part = crossed(sample, strata)
        means.append(conditional.mean)
        variances.append(conditional.se**2 + (np.var(part.columns, ddof=1) - part.excess) / 8)
    assert np.mean(means) == pytest.approx((10 * population[:10].mean() + 14 * population[10:].mean()) / 24, abs=0.005)
    assert np.mean(variances) == pytest.approx(np.var(means), rel=0.08)


def test_the_pigeonhole_bootstrap_agrees() -> None:
    """Owen's bootstrap counts the residual part three times, which is little here."""
    rng = np.random.default_rng(4)
    matrix = mixed(rng, 150, 60)
    n, m = matrix.shape
    rows, columns = (rng.multinomial(k, np.full(k, 1 / k), size=4000) for k in (n, m))
    drawn = ((rows @ matrix) * columns).sum(axis=1) / n / m
    assert np.var(drawn) == pytest.approx(crossed(matrix, None)[1].se ** 2 + 2 * residuals(matrix) / n / m, rel=0.07)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.integers(6, 20), st.floats(0, 1), st.integers(0, 99), st.sampled_from([0.5, 0.9, 0.95]))
def test_limits_hold_the_mean_and_the_conditional_interval(
    n: int, m: int, share: float, seed: int, level: float
) -> None:
    matrix = np.asarray(np.random.default_rng(seed).random((n, m)) < share, np.float64)
    conditional, found, _ = crossed(matrix, None, level)
    assert 0 <= found.low <= conditional.low <= found.mean <= conditional.high <= found.high <= 1
    assert math.isnan(found.se) if n == 1 else found.se >= conditional.se


def test_inputs_that_are_alike_add_nothing() -> None:
    matrix = np.repeat(np.array([[0.0], [1], [0], [0], [1], [0]]), 9, axis=1)
    conditional, found, _ = crossed(matrix, None)
    assert found == pytest.approx(conditional)


def test_all_faults_there_are_leave_the_inputs() -> None:
    matrix = mixed(np.random.default_rng(5), 12, 30)
    conditional, found, _ = crossed(matrix, Strata(("a",), (12,), (12,)))
    assert (conditional.se, conditional.census) == (0, True)
    student = stats.t.interval(0.95, 29, matrix.mean(), stats.sem(matrix.mean(axis=0)))
    assert (found.se, found.low, found.high) == pytest.approx((stats.sem(matrix.mean(axis=0)), *student))


def test_too_few_inputs_say_nothing() -> None:
    """At 95 % five inputs: had they come out alike, so could each other one with a probability of over one half."""
    _, found, _ = crossed(mixed(np.random.default_rng(6), 50, 5), None)
    assert (math.isnan(found.se), found.low, found.high) == (True, 0, 1)


def test_values_of_either_sign_are_within_their_bounds() -> None:
    found = over_inputs(Estimate(9, -0.9, 0.1, -0.95, -0.5, False), InputPart(np.arange(-6, 0) / 6, 0.0), 0.95, -1.0)
    assert found.low == -1
    assert -0.5 < found.high < 1


# --- runs --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, labelled inputs, a list drawn by layer with its design, and ``run``, which kept every outcome."""
    folder = tmp_path_factory.mktemp("two_way")
    save(cnn(), folder / "cnn.onnx")
    np.savez(folder / "cnn.npz", x=normal(INPUTS, 1, 6, 6, seed=3), y=np.arange(INPUTS) % 4)
    generate_faults(load_model(folder / "cnn.onnx"), SamplingRequest(scheme="layer", margin=0.12), folder / "f.csv")
    run(folder, "run", records=["per_input"], save_outputs=True)
    return folder


@pytest.fixture(scope="module")
def nested(folder: Path) -> Path:
    """A run of the list, without its design, in which each fault has 16 inputs of its own, or the last 8."""
    return run(folder, "nested", list(read_fault_list(folder / "f.csv")), inputs_per_injection=16)


def run(folder: Path, name: str, faults: Any = None, **options: Any) -> Path:
    given = folder / "f.csv" if faults is None else faults
    setup = prepare(folder / "cnn.onnx", Settings(batch_size=8))
    run_campaign(setup, given, options=RunOptions(run=folder / name, workers=1, **options))
    return folder / name


def recorded(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.str_]]:
    """The bytes (injections, inputs) of a run, and the layer of each injection."""
    with closing(sqlite3.connect(path / "campaign.sqlite")) as database:
        blobs = database.execute("SELECT per_input FROM outcome ORDER BY position, first").fetchall()
        layers = database.execute("SELECT layer FROM receipt ORDER BY position").fetchall()
    return np.frombuffer(b"".join(blob for (blob,) in blobs), np.uint8).reshape(-1, INPUTS), np.array(layers)[:, 0]


def test_a_run_over_inputs(folder: Path) -> None:
    """Every quantity of the network and of layers, against the bytes; strata are the layers."""
    question, design = Question(by=SCOPES, over_inputs=True), folder / "f.design.json"
    rates = estimate_rates(folder / "run", question, design)
    plain = estimate_rates(folder / "run", Question(by=SCOPES), design)
    assert rates.strata is not None
    code, layers = recorded(folder / "run")
    critical, nonfinite, right = code & 3 == 2, code >> 7 != 0, code & 4 != 0
    clean = np.load(folder / "run/outputs/clean.npy").argmax(axis=1) == np.arange(INPUTS) % 4
    expected: dict[str, NDArray[Any]] = {
        "critical": critical,
        "non_critical": code & 3 == 1,
        "masked": code & 3 == 0,
        "nonfinite": nonfinite,
        "critical_nonfinite": critical & nonfinite,
        "critical_or_nonfinite": critical | nonfinite,
        "critical_finite": critical & ~nonfinite,
        "accuracy_drop": clean.astype(int) - right,
    }
    assert {row.quantity for row in rates.rows} == set(expected)
    for name, values in expected.items():
        found = rates.find("network", ALL, name)
        columns, faults, excess = np.zeros(INPUTS), 0.0, 0.0
        for stratum, size, whole in zip(rates.strata.names, rates.strata.sizes, rates.strata.populations, strict=True):
            own, weight = values[layers == stratum].astype(float), whole / sum(rates.strata.populations)
            assert len(own) == size
            columns += weight * own.mean(axis=0)
            factor = weight**2 * (1 - size / whole) / size
            faults += factor * np.var(own.mean(axis=1), ddof=1)
            excess += factor * residuals(own)
        assert found.mean == pytest.approx(columns.mean(), abs=1e-12)
        assert (found.se or 0) ** 2 == pytest.approx(
            faults + max(float(np.var(columns, ddof=1)) - excess, 0.0) / INPUTS
        ), name
        group, conditional = rates.find("layer", "fc", name), plain.find("layer", "fc", name)
        own = values[layers == "fc"].astype(float)
        assert (group.mean, group.faults) == pytest.approx((own.mean(), len(own)))
        assert group.low <= conditional.low <= conditional.high <= group.high
        assert group.level == conditional.level
    for row in rates.rows:
        conditional = plain.find(row.scope, row.group, row.quantity)
        assert row.mean == pytest.approx(conditional.mean)
        assert row.too_few == conditional.too_few
    assert rates.corrected_for == {name: number for name, number in plain.corrected_for.items() if name != CURVE}


def test_results_name_the_design(folder: Path, tmp_path: Path) -> None:
    for over, name, about in (
        (False, "all inputs of the run, conditional on them", CONDITIONAL),
        (True, "two-way: faults and inputs sampled", "Estimates are over all inputs that those run were drawn from"),
    ):
        rates = estimate_rates(folder / "run", Question(over_inputs=over))
        record = json.loads(json.dumps(as_record(rates), allow_nan=False))
        assert (record["input_design"], record["question"]["over_inputs"]) == (name, over)
        assert record["notes"][-1].startswith(about)
        assert bool(record["curve"]) is not over
        assert any("sdc_5, sdc_10 and sdc_20" in note for note in rates.notes) is over
        assert ("Student's" in record["method"]) is over
        write_csv(rates, tmp_path / "out.csv")
        with (tmp_path / "out.csv").open() as file:
            assert {row["input_design"] for row in csv.DictReader(file)} == {name}
    assert estimate_rates(folder / "run/results.csv").inputs.name == "not known from a file, conditional on the inputs"


def test_few_inputs_are_marked(folder: Path) -> None:
    run_campaign(
        prepare(folder / "cnn.onnx", Settings(first=5)),
        folder / "f.csv",
        options=RunOptions(run=folder / "few", workers=1, records=["per_input"]),
    )
    rates = estimate_rates(folder / "few", Question(by=("network",), over_inputs=True))
    assert {(row.mean, row.se, row.low, row.high) for row in rates.rows if row.quantity == "critical"} == {
        (None, None, 0, 1)
    }
    assert any(note.startswith("too few inputs") for note in rates.notes)
    assert not any(note.startswith("too few faults") for note in rates.notes)


def test_golden_classes_that_are_not_recorded(folder: Path) -> None:
    """Where every fault is critical on some input, the golden class of that input is not recorded."""
    harmful = [Injection(f"i{i}", (Fault("fc", (i, 3), 30),)) for i in range(4)]
    path = run(folder, "harmful", harmful[:1], records=["per_input"])
    assert (recorded(path)[0] & 3 == 2).any()
    rates = estimate_rates(path, Question(over_inputs=True))
    assert "accuracy_drop" not in {row.quantity for row in rates.rows}
    assert any(note.startswith("accuracy lost is left out") for note in rates.notes)


def test_what_is_refused(folder: Path, nested: Path, tmp_path: Path) -> None:
    (tmp_path / "campaign.sqlite").write_bytes((folder / "run/campaign.sqlite").read_bytes())
    with closing(sqlite3.connect(tmp_path / "campaign.sqlite")) as database, database:
        database.execute("UPDATE setting SET value = json_set(value, '$.records', json('[]')) WHERE key = 'identity'")
        database.execute("UPDATE outcome SET per_input = NULL, scores = NULL")
    named = [Injection("a", (Fault("conv", (0, 1, 1), 30, site=Site.OUTPUT, input=3),))]
    sources = {
        folder
        / "run/results.csv": "`over_inputs` needs the outcome of every input, expected a run directory, found a file",
        tmp_path: "which this run did not keep; run inject again with `per_input`",
        run(
            folder, "named", named, records=["per_input"]
        ): "expects all faults on the same inputs, found faults that name theirs; leave it out",
        nested: "found inputs drawn for each fault, which the intervals cover already; leave it out",
    }
    for source, message in sources.items():
        with pytest.raises(RunError) as caught:
            estimate_rates(source, Question(over_inputs=True))
        assert str(caught.value).startswith(f"{source}: `over_inputs` ")
        assert str(caught.value).endswith(message)
    assert estimate_rates(folder / "named").inputs.name == "inputs that the faults name, conditional on them"
    rates = estimate_rates(folder / "run", Question(over_inputs=True, theta=0.1))
    with pytest.raises(
        RunError, match="needs the share of harmful faults, which `over_inputs` does not give; leave one"
    ):
        failures(rates, Operation(fit_per_mbit=1, mbit="1e6", residency=1, memory_bits=32))


def test_no_failures_in_time_from_inputs_of_their_own(nested: Path) -> None:
    """Of a fault's few inputs, no share tells whether it is harmful over all of them."""
    operation = Operation(fit_per_mbit=1, mbit="1e6", residency=1, memory_bits=32)
    for source, message in (
        (nested, "found 16 inputs drawn for each fault"),
        (nested / "results.csv", "estimate the run"),
    ):
        with pytest.raises(RunError, match=message):
            failures(estimate_rates(source, Question(theta=0.1)), operation)


def test_nested_runs_have_no_population_correction(nested: Path) -> None:
    """Even the whole population leaves the noise of inputs; shares are of a fault's own inputs."""
    with (nested / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    inputs = np.array([int(row["n_injections"]) for row in rows])
    shares = np.array([int(row["critical"]) for row in rows]) / inputs
    assert set(inputs) == {16, 8}
    rates = estimate_rates(nested, Question(), Strata(("all",), (len(rows),), (len(rows),)))
    found = rates.find("network", ALL, "critical")
    assert (found.mean, found.se) == pytest.approx((shares.mean(), stats.sem(shares)))
    endless = estimate_rates(nested).find("network", ALL, "critical")
    assert (found.low, found.high) == (endless.low, endless.high)
    golden = json.loads((nested / "golden.json").read_text())["top_1_correct"] / INPUTS
    correct = np.array([int(row["top_1_correct"]) for row in rows]) / inputs
    assert rates.find("network", ALL, "accuracy_drop").mean == pytest.approx(np.mean(golden - correct))
    assert rates.inputs.name == "nested: 16 inputs of its own per fault"
    assert rates.find("network", ALL, HARMFUL, 0.0).mean == pytest.approx(np.mean(shares > 0))
    assert any("are about these inputs, not about all" in note for note in rates.notes)
