"""Runs that older versions of the store left: read, compared, resumed; those of even older ones are refused."""

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from bitswap_onnx.campaign.dialects import export_dialect
from bitswap_onnx.campaign.results import summarize
from bitswap_onnx.campaign.run_directory import reading
from bitswap_onnx.campaign.schema import SCHEMA_VERSION, UPGRADES
from bitswap_onnx.errors import RunError
from bitswap_onnx.experiments.comparison.paired_runs import read_pair
from tests.campaign.old_stores import RESULTS, RESULTS_2, finish, injections, neuron_injections, old_run

WEIGHTS, NEURONS = "version_4_weights", "version_4_neurons"


def version(run: Path) -> int:
    with closing(sqlite3.connect(run / "campaign.sqlite")) as db:
        return int(db.execute("PRAGMA user_version").fetchone()[0])


def test_every_older_version_has_a_run() -> None:
    assert set(UPGRADES) == {4}
    assert max(UPGRADES) + 1 == SCHEMA_VERSION


@pytest.mark.parametrize("state", ["finished", "stopped"])
def test_resumed_it_ends_as_it_would_have(state: str, tmp_path: Path) -> None:
    """The same list, model, data and settings are known again by their hashes; what was done is kept."""
    run = old_run(tmp_path / "run", f"{WEIGHTS}_{state}")
    finish(tmp_path, run, resume=True)
    assert version(run) == SCHEMA_VERSION
    assert (run / "results.csv").read_text() == RESULTS
    assert np.load(run / "outputs/inj_late.npy").tolist() == [[10, -5], [5.5, 2.5], [1, 10], [-3.5, 17.5]]
    finish(tmp_path, tmp_path / "new", resume=False)
    assert (tmp_path / "new/results.csv").read_text() == RESULTS


@pytest.mark.parametrize("state", ["finished", "stopped"])
def test_neurons_resumed_end_as_they_would_have(state: str, tmp_path: Path) -> None:
    run = old_run(tmp_path / "run", f"{NEURONS}_{state}")
    finish(tmp_path, run, resume=True, listed=neuron_injections())
    assert (run / "results.csv").read_text() == RESULTS_2
    with reading(run) as store:
        assert [store.inputs(position) for position in range(4)] == [None, None, [2], None]


def test_its_results_are_exported(tmp_path: Path) -> None:
    """To a format that has single flips of weights alone; reading changes no file."""
    run = old_run(tmp_path / "run", f"{WEIGHTS}_finished")
    with closing(sqlite3.connect(run / "campaign.sqlite")) as db:
        db.execute("DELETE FROM receipt WHERE position = 2 OR (position = 1 AND row = 1)")
        db.execute("DELETE FROM injection WHERE position = 2")
        db.execute("DELETE FROM outcome WHERE position = 2")
        db.commit()
    before = (run / "campaign.sqlite").read_bytes()
    with reading(run) as store:
        export_dialect(store, "dnn-benchmarks", tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_text().splitlines()[1:] == [
        'flip,fc,"(0, 0)",30,4,0,2,2',
        'two,fc,"(1, 1)",31,4,0,2,2',
        'late,fc,"(2, 1)",22,4,1,3,0',
    ]
    assert (run / "campaign.sqlite").read_bytes() == before


def test_it_is_summarized(tmp_path: Path) -> None:
    with reading(old_run(tmp_path / "run", f"{WEIGHTS}_finished")) as store:
        summary = summarize(store)
        assert [store.inputs(position) for position in range(4)] == [None] * 4
    assert (summary.injections, summary.totals["inputs"], summary.totals["critical"]) == (4, 16, 4)


def test_it_is_compared_with_a_run_of_today(tmp_path: Path) -> None:
    run = old_run(tmp_path / "run", f"{WEIGHTS}_finished")
    finish(tmp_path, tmp_path / "new", resume=False)
    for pair in (read_pair(run, tmp_path / "new"), read_pair(tmp_path / "new", run)):
        assert (pair.counts_a == pair.counts_b).all()
        assert pair.per_input


def test_another_design_of_inputs_is_another_campaign(tmp_path: Path) -> None:
    run = old_run(tmp_path / "run", f"{WEIGHTS}_stopped")
    with pytest.raises(RunError, match="with other `inputs_per_injection` or its `seed`;"):
        finish(tmp_path, run, resume=True, listed=injections(), inputs_per_injection=2)


@pytest.mark.parametrize("older", [1, 2, 3])
def test_versions_of_before_the_first_release_are_refused(older: int, tmp_path: Path) -> None:
    run = old_run(tmp_path / "run", f"{WEIGHTS}_finished")
    with closing(sqlite3.connect(run / "campaign.sqlite")) as db:
        db.execute(f"PRAGMA user_version = {older}")
    with pytest.raises(RunError, match=f"expected schema version {SCHEMA_VERSION}, found {older}; use the version"):
        finish(tmp_path, run, resume=True)
