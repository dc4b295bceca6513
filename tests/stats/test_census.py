"""Lists against a census: a few bits of two layers of the digits model, run exhaustively over 32 inputs."""

import csv
from pathlib import Path

import numpy as np
import pytest

from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.estimates.groups import ALL, faults_by_stratum, groups
from bitswap_onnx.estimates.names import HARMFUL, SCOPES, Scope
from bitswap_onnx.estimates.question import Question
from bitswap_onnx.estimates.rates import estimate_rates
from bitswap_onnx.estimates.read import FaultLabels
from bitswap_onnx.sampling.generate import generate_faults
from bitswap_onnx.sampling.request import SamplingRequest
from bitswap_onnx.stats.stratified import Bounded, estimate_mean
from tests.benchmarks.census import measure
from tests.census import Census, plan_lists, take_census
from tests.recorded import recorded_of

LISTS = 150
LAYERS, BITS = "conv1,linear", "23,30,31"

CASES = {
    "network": SamplingRequest("network", margin=0.02, layers=LAYERS, bits=BITS),
    "layer": SamplingRequest("layer", margin=0.1, rounding="ceil", layers=LAYERS, bits=BITS),
    "bit-layer": SamplingRequest("bit-layer", margin=0.1, layers=LAYERS, bits=BITS),
    "data-aware": SamplingRequest("data-aware", margin=0.1, layers=LAYERS, bits=BITS),
    "per-target": SamplingRequest("per-target", number=25, layers=LAYERS, bits=BITS),
}
WHOLE = {
    "exhaustive": SamplingRequest("exhaustive", layers=LAYERS, bits=BITS),
    "one layer": SamplingRequest("exhaustive", layers="conv1", bits="30"),
    "layer": SamplingRequest("layer", margin=1e-9, layers=LAYERS, bits=BITS),
    "bit-layer": SamplingRequest("bit-layer", margin=1e-9, layers=LAYERS, bits=BITS),
    "per-target": SamplingRequest("per-target", number=10**9, layers=LAYERS, bits=BITS),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("census") / "run"


@pytest.fixture(scope="module")
def census(run: Path) -> Census:
    return take_census(run, WHOLE["exhaustive"], Settings(first=32))


@pytest.mark.slow
@pytest.mark.parametrize("request_", CASES.values(), ids=CASES)
def test_lists_tell_what_all_faults_do(census: Census, request_: SamplingRequest) -> None:
    """95 % intervals cover, means and errors are right, and faults are drawn equally often, as far as lists tell."""
    lists = plan_lists(census, request_)
    assert lists.size < len(lists.population) == len(set(lists.population.tolist()))
    for seed in range(3):
        assert lists.positions(seed).tolist() == lists.sampled(seed).tolist()
    rows, drawn = measure(lists, LISTS, [0.95])
    assert [fault for row in rows for fault in row.wrong] == []
    assert len(rows) == 9
    assert drawn > 1e-4
    for row in rows:  # so many lists know a standard deviation to 6 %, if there is one
        assert not row.se or 0.8 < row.seen < 1.2
        assert row.telling > LISTS // 2


@pytest.mark.parametrize("request_", WHOLE.values(), ids=WHOLE)
def test_a_list_of_everything_is_the_census(census: Census, request_: SamplingRequest) -> None:
    lists = plan_lists(census, request_)
    assert lists.size == len(lists.population)
    assert list(lists.inexact()) == []


@pytest.mark.parametrize("request_", CASES.values(), ids=CASES)
def test_sizes_are_those_of_the_census(census: Census, request_: SamplingRequest) -> None:
    lists = plan_lists(census, request_)
    scopes: tuple[tuple[Scope, FaultLabels], ...] = (("layer", census.layers), ("bit", census.bits.astype(str)))
    for scope, labels in scopes:
        held = faults_by_stratum(lists.frame.parts or (), scope)
        assert set(held) == set(labels[lists.population].tolist())
        for name, own in held.items():
            assert [own.get(i, 0) for i in range(len(lists.tables))] == lists.held(labels == name).tolist()


def test_groups_of_a_run_are_those_of_its_design(run: Path, census: Census) -> None:
    """In a run of all faults, each group has as many as its design says, under the same names."""
    lists = plan_lists(census, WHOLE["exhaustive"])
    for scope in SCOPES:
        own = {group.name: len(group.member) for group in groups(recorded_of(run), scope, lists.frame)}
        assert {
            name: sum(held.values()) for name, held in faults_by_stratum(lists.frame.parts or (), scope).items()
        } == own


@pytest.mark.parametrize("name", ["network", "bit-layer"])
def test_estimates_of_files_are_those_of_the_census(run: Path, census: Census, tmp_path: Path, name: str) -> None:
    """A list as `generate_faults` writes it, with its faults' rows of the census for results, and its design."""
    generate_faults(census.model, CASES[name], tmp_path / "f.csv")
    with (run / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    lists = plan_lists(census, CASES[name])
    positions = lists.positions(0)
    with (tmp_path / "r.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows[position] | {"Injection": str(i)} for i, position in enumerate(positions.tolist()))
    rates = estimate_rates(tmp_path / "r.csv", Question(by=("network",)), tmp_path / "f.design.json")
    for quantity, theta, values in (
        ("critical", None, census.shares["critical"]),
        ("masked", None, census.shares["masked"]),
        (HARMFUL, 0.0, census.shares["any critical"]),
    ):
        row = rates.find("network", ALL, quantity, theta)
        found = estimate_mean(lists.frame, np.arange(lists.size), Bounded(values[positions]), 0.95)
        assert (row.mean, row.se, row.low, row.high) == pytest.approx((found.mean, found.se, found.low, found.high))
