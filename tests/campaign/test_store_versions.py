"""Runs that older versions of the store left: still read, compared, resumed."""

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from bitswap_onnx.campaign.results import export_dialect, summarize
from bitswap_onnx.campaign.run_directory import reading
from bitswap_onnx.errors import RunError
from bitswap_onnx.experiments.comparison.run_pair import read_pair
from tests.campaign.old_runs import (
    HALF,
    HALF_2,
    RECEIPTS,
    REST,
    REST_2,
    RESULTS,
    RESULTS_2,
    VERSION_2,
    finish,
    injections_2,
    old_run,
)


@pytest.mark.parametrize("parts", [(RECEIPTS, HALF, REST), (RECEIPTS, HALF)], ids=["finished", "stopped"])
def test_resumed_it_ends_as_it_would_have(parts: tuple[str, ...], tmp_path: Path) -> None:
    """The same list, model, data and settings are known again by their hashes; what was done is kept."""
    run = old_run(tmp_path / "run", *parts)
    finish(tmp_path, run, resume=True)
    assert (run / "results.csv").read_text() == RESULTS
    assert np.load(run / "outputs/inj_late.npy").tolist() == [[10, -5], [5.5, 2.5], [1, 10], [-3.5, 17.5]]
    finish(tmp_path, tmp_path / "new", resume=False)
    assert (tmp_path / "new/results.csv").read_text() == RESULTS


def test_its_results_are_exported(tmp_path: Path) -> None:
    run = old_run(tmp_path / "run", RECEIPTS.replace("(1,1,'fc'", "(9,1,'fc'"), HALF, REST)
    with sqlite3.connect(run / "campaign.sqlite") as db:  # that format has flips of weights alone
        db.execute("DELETE FROM receipt WHERE position IN (2, 9)")
        db.execute("DELETE FROM injection WHERE position = 2")
        db.execute("DELETE FROM outcome WHERE position = 2")
    db.close()
    with reading(run) as store:
        export_dialect(store, "dnn-benchmarks", tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_text().splitlines()[1:] == [
        'flip,fc,"(0, 0)",30,4,0,2,2',
        'two,fc,"(1, 1)",31,4,0,2,2',
        'late,fc,"(2, 1)",22,4,1,3,0',
    ]


def test_it_is_summarized(tmp_path: Path) -> None:
    with reading(old_run(tmp_path / "run", RECEIPTS, HALF, REST)) as store:
        found = summarize(store)
        assert [store.inputs(position) for position in range(4)] == [None] * 4
    assert (found.injections, found.totals["inputs"], found.totals["critical"]) == (4, 16, 4)


def test_it_is_compared_with_a_run_of_today(tmp_path: Path) -> None:
    run = old_run(tmp_path / "run", RECEIPTS, HALF, REST)
    finish(tmp_path, tmp_path / "new", resume=False)
    for pair in (read_pair(run, tmp_path / "new"), read_pair(tmp_path / "new", run)):
        assert (pair.counts_a == pair.counts_b).all()
        assert pair.per_input


@pytest.mark.parametrize("parts", [(HALF_2, REST_2), (HALF_2,)], ids=["finished", "stopped"])
def test_version_2_resumed_ends_as_it_would_have(parts: tuple[str, ...], tmp_path: Path) -> None:
    run = old_run(tmp_path / "run", VERSION_2, *parts)
    finish(tmp_path, run, resume=True, listed=injections_2())
    assert (run / "results.csv").read_text() == RESULTS_2
    with reading(run) as store:
        assert [store.inputs(position) for position in range(4)] == [None, None, [2], None]


def test_an_identity_that_does_not_say_so_is_one_over_all_inputs(tmp_path: Path) -> None:
    run = old_run(tmp_path / "run", RECEIPTS, HALF)
    with pytest.raises(RunError, match="with other --inputs-per-injection or its --seed;"):
        finish(tmp_path, run, resume=True, inputs_per_injection=2)
