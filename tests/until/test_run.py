"""Campaigns that run until a share is known: against an exhaustive list, cut off and resumed, towards other goals."""

import csv
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from bitswap_onnx.campaign.options import Audit, RunOptions
from bitswap_onnx.campaign.records import InterimEstimate
from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.campaign.run_directory import reading
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.errors import BitswapError, InterruptedRunError, RunError
from bitswap_onnx.estimates.question import Question
from bitswap_onnx.estimates.rates import estimate_rates
from bitswap_onnx.graph.model import load_model
from bitswap_onnx.runtime.messages import Message, Result, Unit
from bitswap_onnx.runtime.pool import Pool
from bitswap_onnx.sampling.generate import generate_faults
from bitswap_onnx.sampling.request import SamplingRequest
from bitswap_onnx.until.drawn_list import Until
from bitswap_onnx.until.goal import Goal, parse_goal
from bitswap_onnx.until.run import Reached, run_until
from tests.builders import cnn, normal, save
from tests.campaigns import run_options

REPO = Path(__file__).parents[2]
INPUTS, BATCH = 20, 4
GOAL = Goal("critical", 0.05, 0.9)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = save(cnn(), tmp_path / "cnn.onnx")
    np.savez(tmp_path / "cnn.npz", x=normal(INPUTS, 1, 6, 6, seed=3), y=np.arange(INPUTS) % 4)
    return path


def run(model: Path, folder: Path, goal: Goal = GOAL, until: dict[str, Any] | None = None, **options: Any) -> Reached:
    own = run_options(options, run=folder, audit=Audit(2), workers=1)
    drawn = Until(goal=goal, **({"bits": "20-31"} | (until or {})))
    return run_until(model, drawn, options=own, **({"settings": Settings(batch_size=BATCH)} | options))


def files(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("results.csv", "until.csv")]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_it_stops_where_the_goal_is_reached_and_says_how_it_came_there(model: Path, tmp_path: Path) -> None:
    seen: list[InterimEstimate] = []
    found = run(model, tmp_path / "run", on_interim_estimate=seen.append)
    assert list(found.interim_estimates) == seen
    *before, last = found.interim_estimates
    assert (last.high - last.low) / 2 <= GOAL.margin
    assert all((one.high - one.low) / 2 > GOAL.margin for one in before)
    assert not found.is_census
    path = rows(tmp_path / "run/until.csv")
    assert [float(row["mean"]) for row in path] == [one.mean for one in seen]
    assert [int(row["injections"]) for row in path] == [one.injections for one in seen]
    results = rows(tmp_path / "run/results.csv")
    assert last.injections == len(results)
    assert last.inferences == last.injections * INPUTS == sum(int(row["n_injections"]) for row in results)
    rates = estimate_rates(tmp_path / "run", Question(by=("layer",)))
    assert rates.strata is not None
    assert sum(rates.strata.sizes) == len(results)
    assert min(rates.strata.sizes) >= 2
    assert rates.find("network", "all", "critical").mean == pytest.approx(last.mean, abs=1e-12)
    assert any(note.startswith("faults were drawn until critical±5%@90%: ") for note in rates.notes)
    pooled = float(np.mean([int(row["critical"]) / INPUTS for row in results]))
    by_file = estimate_rates(tmp_path / "run/results.csv")
    assert by_file.find("network", "all", "critical").mean == pytest.approx(pooled) != pytest.approx(last.mean)
    assert any("the file lies in its run directory" in note for note in by_file.notes)


def test_one_set_of_workers_runs_all_rounds(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each begins once, and hears before each later round how many batches are likely to come."""
    begun: dict[int, list[int]] = {}
    ask = Pool._ask

    def note(pool: Pool, worker: int, message: Message, label: str) -> tuple[Message, dict[str, bytes]]:
        paths = message.get("expect") or message.get("paths")
        if paths is not None:
            assert ("model" in message) == (worker not in begun)
            begun.setdefault(worker, []).append(sum(number for _, number in paths))
        return ask(pool, worker, message, label)

    monkeypatch.setattr(Pool, "_ask", note)
    found = run(model, tmp_path / "run", Goal("critical", 0.025, 0.9), workers=2)
    known = [estimate.injections * INPUTS // BATCH for estimate in found.interim_estimates]
    assert len(known) > 2
    assert begun.keys() == {0, 1}
    for heard in begun.values():
        later = known[-len(heard) :]
        assert all(likely >= number for likely, number in zip(heard, later, strict=True))
        assert sorted(set(heard)) == heard


@pytest.mark.parametrize("stop", [None, 2])
def test_a_path_that_was_not_worth_a_lane_gets_one_when_more_faults_come(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int | None
) -> None:
    """The pilot has two batches for each layer. Whatever runs comes behind one null control of its block on its lane."""
    np.savez(tmp_path / "many.npz", x=normal(80, 1, 6, 6, seed=3), y=np.arange(80) % 4)
    units: list[tuple[Unit, Result]] = []
    run_unit = Pool._run

    def note(pool: Pool, worker: int, unit: Unit) -> Result:
        result = run_unit(pool, worker, unit)
        if unit.engine == "incremental":
            units.append((unit, result))
        return result

    def interrupt(found: InterimEstimate) -> None:
        if found.round == stop:
            raise InterruptedRunError("between two rounds")

    def go(resume: bool = False, **options: Any) -> Reached:
        settings = Settings(data=tmp_path / "many.npz", batch_size=BATCH)
        options |= {"settings": settings, "inputs_per_injection": BATCH, "resume": resume}
        return run(model, tmp_path / "run", Goal("critical", 0.03, 0.9), {"bits": "30"}, **options)

    monkeypatch.setattr(Pool, "_run", note)
    if stop is not None:
        with pytest.raises(InterruptedRunError):
            go(on_interim_estimate=interrupt)
    found = go(resume=stop is not None)
    assert found.interim_estimates[0].inferences == 2 * 2 * BATCH
    with reading(tmp_path / "run") as store:
        assert store.lanes == {"conv.weight": "packed", "fc.weight": "packed"}
    controlled: set[tuple[str, int, str]] = set()
    for unit, result in units:
        for part, control, kind in zip(unit.parts, result.controls, result.lane_kinds, strict=True):
            key = part.path[0], unit.work.chunk.first, kind
            assert (control is None) == (key in controlled)
            controlled.add(key)
    assert {kind for *_, kind in controlled} == {"whole", "packed"}


@pytest.mark.slow
def test_the_truth_of_an_exhaustive_list_lies_within_and_all_faults_give_it(model: Path, tmp_path: Path) -> None:
    request = SamplingRequest(scheme="exhaustive", layers="fc", bits="30")
    generate_faults(load_model(model), request, tmp_path / "all.csv")
    settings = Settings(batch_size=BATCH)
    run_campaign(prepare(model, settings), tmp_path / "all.csv", options=RunOptions(run=tmp_path / "all", workers=1))
    every = rows(tmp_path / "all/results.csv")
    truth = float(np.mean([int(row["critical"]) / INPUTS for row in every]))
    own = {"layers": "fc", "bits": "30"}
    found = run(model, tmp_path / "run", Goal("critical", 0.15, 0.9), own).interim_estimates[-1]
    assert found.low <= truth <= found.high
    assert found.injections < len(every)
    census = run(model, tmp_path / "census", Goal("critical", 1e-6, 0.99), own)
    assert census.is_census
    assert census.interim_estimates[-1].injections == len(every)
    assert census.interim_estimates[-1].mean == pytest.approx(truth, abs=1e-12)


@pytest.mark.slow
def test_interrupted_between_rounds_it_ends_as_if_it_had_not_been(model: Path, tmp_path: Path) -> None:
    goal = Goal("critical", 0.025, 0.9)
    whole = run(model, tmp_path / "whole", goal, inputs_per_injection=BATCH)
    assert len(whole.interim_estimates) > 2
    for stop in (1, len(whole.interim_estimates) - 1):

        def fail(found: InterimEstimate, stop: int = stop) -> None:
            if found.round == stop:
                raise InterruptedRunError("between two rounds")

        folder = tmp_path / f"cut{stop}"
        with pytest.raises(InterruptedRunError):
            run(model, folder, goal, inputs_per_injection=BATCH, on_interim_estimate=fail)
        assert not (folder / "results.csv").exists()
        with pytest.raises(RunError, match="more faults are to be drawn; finish the campaign"):
            estimate_rates(folder)
        run(model, folder, goal, inputs_per_injection=BATCH, resume=True)
        assert files(folder) == files(tmp_path / "whole")


@pytest.mark.slow
def test_killed_and_resumed_it_is_the_undisturbed_run(tmp_path: Path) -> None:
    model, goal = REPO / "models/digits_cnn.onnx", "critical+-4%@90%"

    def finish(folder: Path, resume: bool) -> list[bytes]:
        until, settings = Until(goal=parse_goal(goal)), Settings(first=8, batch_size=8)
        run_until(model, until, settings=settings, options=RunOptions(run=folder, resume=resume, workers=1))
        return files(folder)

    expected = finish(tmp_path / "whole", resume=False)
    folder = tmp_path / "killed"
    arguments = [REPO / "tests/kill_at.py", model, goal, folder, 36]
    ended = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, check=False)
    assert ended.returncode == 9, ended.stderr
    with reading(folder) as store:
        done = store.outcomes
        assert store.drawing is not None
        assert len(store.drawing.rounds) == 2
        assert 0 < done < store.injections
    assert finish(folder, resume=True) == expected


def test_a_finished_run_goes_on_towards_another_goal(model: Path, tmp_path: Path) -> None:
    first = run(model, tmp_path / "run")
    again = run(model, tmp_path / "run", resume=True)
    assert again.interim_estimates == first.interim_estimates
    goal = Goal("critical", 0.03, 0.9)

    def interrupt(found: InterimEstimate) -> None:
        if found.round == len(first.interim_estimates) + 1:
            raise InterruptedRunError("on the way")

    with pytest.raises(InterruptedRunError):
        run(model, tmp_path / "run", goal, resume=True, on_interim_estimate=interrupt)
    assert not {"results.csv", "until.csv", "golden.json"} & {path.name for path in (tmp_path / "run").iterdir()}
    nearer = run(model, tmp_path / "run", goal, resume=True)
    assert nearer.interim_estimates[: len(first.interim_estimates)] == first.interim_estimates
    assert nearer.interim_estimates[-1].injections > first.interim_estimates[-1].injections
    other = run(model, tmp_path / "run", Goal("masked", 0.2, 0.9), resume=True)
    assert other.interim_estimates[-1].goal == "masked±20%@90%"
    assert other.interim_estimates[-1].low < other.interim_estimates[-1].mean < other.interim_estimates[-1].high


def test_other_faults_are_another_campaign(model: Path, tmp_path: Path) -> None:
    run(model, tmp_path / "run")
    changes: list[dict[str, Any]] = [
        {"until": {"bits": "30"}},
        {"until": {"scheme": "iterative"}},
        {"settings": Settings(batch_size=BATCH, seed=1)},
    ]
    for change in changes:
        with pytest.raises(RunError, match="holds another campaign, with other faults;"):
            run(model, tmp_path / "run", resume=True, **change)
    with pytest.raises(RunError, match="holds a campaign already"):
        run(model, tmp_path / "run")


def test_engines_agree_and_the_list_gives_the_same_counts_again(model: Path, tmp_path: Path) -> None:
    run(model, tmp_path / "run")
    run(model, tmp_path / "reference", engine="reference")
    assert files(tmp_path / "reference") == files(tmp_path / "run")
    run_campaign(
        prepare(model, Settings(batch_size=BATCH)),
        tmp_path / "run/results.csv",
        options=RunOptions(run=tmp_path / "list", workers=1),
    )
    assert rows(tmp_path / "list/results.csv") == rows(tmp_path / "run/results.csv")


def test_the_iterative_method_runs_its_pilot_first(model: Path, tmp_path: Path) -> None:
    found = run(model, tmp_path / "run", Goal("critical", 0.05, 0.99), {"scheme": "iterative", "bits": None})
    weights = [onnx.load(model).graph.initializer, ("conv.weight", "fc.weight")]
    bits = 32 * sum(math.prod(tensor.dims) for tensor in weights[0] if tensor.name in weights[1])
    assert found.interim_estimates[0].injections == pytest.approx(
        664 / (1 + 664 / bits), abs=1
    )  # 664 of an endless population
    assert len(found.interim_estimates) == 1
    assert not found.is_census


def test_inputs_of_their_own_tell_no_fault_for_certain(model: Path, tmp_path: Path) -> None:
    """Of few faults many are drawn, again and again over other inputs, and the share of all over all lies within."""
    own = {"layers": "fc", "bits": "30"}
    census = run(model, tmp_path / "census", Goal("critical", 1e-6, 0.99), own).interim_estimates[-1]
    found = run(model, tmp_path / "run", Goal("critical", 0.07, 0.99), own, inputs_per_injection=BATCH)
    last = found.interim_estimates[-1]
    assert not found.is_census
    assert last.injections > census.injections
    assert last.low <= census.mean <= last.high
    rates = estimate_rates(tmp_path / "run", Question(by=("layer", "bit")))
    assert rates.find("network", "all", "critical").mean == pytest.approx(last.mean, abs=1e-12)
    with pytest.raises(BitswapError, match="`scheme` iterative: expected all inputs for every fault"):
        run(model, tmp_path / "other", until={"scheme": "iterative"}, inputs_per_injection=BATCH)
    assert not (tmp_path / "other").exists()


def test_wrong_goals(model: Path, tmp_path: Path) -> None:
    with pytest.raises(BitswapError, match=r"`until`: expected one of critical, .*, found 'accuracy'"):
        run(model, tmp_path / "run", Goal("accuracy", 0.1, 0.9))
    assert not (tmp_path / "run").exists()
