"""Campaigns in which every injection runs over inputs of its own: what they count is a part of what one over all counts."""

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitswap_onnx.campaign.options import Progress, RunOptions
from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.data import chunks
from bitswap_onnx.errors import FaultListError, RunError
from bitswap_onnx.faults.fault import Fault, Injection, Site
from bitswap_onnx.faults.fault_list import read_fault_list, write_fault_list
from bitswap_onnx.outcome import OUTCOME_NAMES, decode_correct, decode_outcomes
from bitswap_onnx.sampling.input_blocks import InputSample
from tests.builders import cnn, normal, save
from tests.campaign.small_campaign import BATCH, INPUTS, faults, rows, run
from tests.campaigns import rows_of_store

REPO = Path(__file__).parents[2]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = save(cnn(), tmp_path / "cnn.onnx")
    np.savez(tmp_path / "cnn.npz", x=normal(INPUTS, 1, 6, 6, seed=3), y=np.arange(INPUTS) % 4)
    return path


def neurons() -> list[Injection]:
    """Faults of all inputs, with a stored one among them."""
    site = [Injection(f"neuron{i}", (Fault("conv", (i % 3, i, 1), 30 - i, site=Site.OUTPUT),)) for i in range(4)]
    return [*site, Injection("mixed", (Fault("fc", (2,), 31, site=Site.OUTPUT), Fault("fc", (0, 9), 29)))]


def block_of(injection: str, length: int = BATCH, seed: int = 0) -> slice:
    chunk = InputSample(INPUTS, length, seed).block_of(injection)
    assert chunk is not None
    return slice(chunk.first, chunk.stop)


def outcomes(folder: Path) -> dict[tuple[str, int], tuple[Any, ...]]:
    """What the store has of each injection and chunk, byte for byte."""
    with closing(sqlite3.connect(folder / "campaign.sqlite")) as db:
        found = db.execute("SELECT i.id, o.* FROM outcome o JOIN injection i USING (position)").fetchall()
    return {(name, first): rest for name, _, first, *rest in found}


@pytest.mark.parametrize("listed", [faults, neurons])
def test_it_counts_its_slice_of_a_run_over_all(listed: Any, model: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra [parquet]")
    run(model, tmp_path / "all", listed(), records=["per_input"], save_outputs=True)
    run(model, tmp_path / "nested", listed(), inputs_per_injection="auto", per_input=True, save_outputs=True)
    table = parquet.read_table(tmp_path / "nested/per_input.parquet").to_pydict()
    found = {row["Injection"]: row for row in rows(tmp_path / "nested") if row["n_injections"]}
    lengths = set()
    query = "SELECT per_input FROM outcome JOIN injection USING (position) WHERE id = ? ORDER BY first"
    for injection in listed():
        own, row = block_of(injection.id), found[injection.id]
        encoded = b"".join(blob for (blob,) in rows_of_store(tmp_path / "all", query, (injection.id,)))[own]
        code, nonfinite = decode_outcomes(encoded)
        expected = dict(zip(OUTCOME_NAMES, np.bincount(code, minlength=3).tolist(), strict=True))
        expected |= {"n_injections": len(code), "nonfinite": int(nonfinite.sum())}
        expected |= {"top_1_correct": int(decode_correct(encoded).sum())}
        assert {name: int(row[name]) for name in expected} == expected, injection.id
        saved = [np.load(tmp_path / kind / f"outputs/inj_{injection.id}.npy") for kind in ("nested", "all")]
        assert np.array_equal(saved[0], saved[1][own], equal_nan=True)
        mine = [i for i, name in enumerate(table["injection"]) if name == injection.id]
        assert [table["input"][i] for i in mine] == list(range(INPUTS)[own])
        assert [table["outcome"][i] for i in mine] == [OUTCOME_NAMES[number] for number in code]
        lengths.add(len(code))
    assert lengths == {BATCH, INPUTS % BATCH} or listed is neurons


def test_all_counts_are_those_of_the_same_batches(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In units of one batch, a run over all has the rows of the nested one, which has no other ones."""
    listed = [*faults(), *neurons()]
    run(model, tmp_path / "nested", listed, inputs_per_injection=BATCH)
    monkeypatch.setattr(chunks, "BATCHES_PER_CHUNK", 1)
    run(model, tmp_path / "all", listed)
    mine, every = outcomes(tmp_path / "nested"), outcomes(tmp_path / "all")
    assert len(mine) == len(listed)
    assert len(every) == len(listed) * -(-INPUTS // BATCH)
    assert {key: every[key] for key in mine} == mine


def test_neither_engine_nor_workers_nor_what_else_is_listed_changes_it(model: Path, tmp_path: Path) -> None:
    """Ids decide, not positions: a part of the list, backwards, gives each injection what it had."""
    options: dict[str, Any] = {"inputs_per_injection": 2 * BATCH, "settings": Settings(batch_size=BATCH, seed=3)}
    run(model, tmp_path / "one", **options)
    run(model, tmp_path / "reference", engine="reference", workers=2, **options)
    assert rows(tmp_path / "reference") == rows(tmp_path / "one")
    part = faults()[::-2]
    run(model, tmp_path / "part", part, **options)
    kept = {injection.id for injection in part}
    mine = [row for row in rows(tmp_path / "one") if row["Injection"] in kept]
    assert sorted(rows(tmp_path / "part"), key=str) == sorted(mine, key=str)
    run(model, tmp_path / "seed", part, inputs_per_injection=2 * BATCH)
    assert rows(tmp_path / "seed") != rows(tmp_path / "part")


def test_what_ran_is_said(model: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    finished = run(model, tmp_path / "run", inputs_per_injection=5, on_progress=seen.append)
    assert (
        "inputs: each injection runs over 8 inputs of its own (5 in whole batches of 8), drawn with seed 0 (nested)"
        in (finished.notes)
    )
    golden = json.loads((tmp_path / "run/golden.json").read_text())
    assert golden["input_design"] == "nested"
    assert golden["identity"]["inputs"] == {"per_injection": BATCH, "seed": 0}
    units = [progress for progress in seen if progress.stage == "injections"]
    assert units[-1].done == units[-1].total == len(faults())
    inferences = sum(len(range(INPUTS)[block_of(injection.id)]) for injection in faults())
    assert units[-1].inferences == finished.summary.totals["inputs"] == inferences
    assert 4 <= len(golden["audit"]["checked"]) <= 10
    (controls,) = rows_of_store(tmp_path / "run", "SELECT COUNT(*), SUM(inputs - masked) FROM control")
    (needed,) = rows_of_store(
        tmp_path / "run", "SELECT COUNT(DISTINCT path || ' ' || first_input) FROM injection WHERE changes"
    )
    assert controls == (*needed, 0)


def test_as_many_inputs_as_there_are_is_the_plain_run(model: Path, tmp_path: Path) -> None:
    run(model, tmp_path / "plain")
    finished = run(model, tmp_path / "many", inputs_per_injection=INPUTS - 1)
    assert finished.golden["input_design"] == "all"
    assert finished.notes[-1].startswith("inputs: each injection runs over all 20;")
    assert (tmp_path / "many/results.csv").read_bytes() == (tmp_path / "plain/results.csv").read_bytes()
    assert outcomes(tmp_path / "many") == outcomes(tmp_path / "plain")
    run(model, tmp_path / "plain", resume=True, inputs_per_injection=1000)


def test_a_prepared_model_brings_its_seed(model: Path, tmp_path: Path) -> None:
    from bitswap_onnx.campaign.setup import prepare

    setup = prepare(model, Settings(batch_size=BATCH, seed=9))
    run_campaign(setup, faults()[:9], options=RunOptions(run=tmp_path / "run", workers=1, inputs_per_injection="auto"))
    found = {row["Injection"]: row["n_injections"] for row in rows(tmp_path / "run")}
    assert found == {f"flip{i}": str(len(range(INPUTS)[block_of(f"flip{i}", seed=9)])) for i in range(9)}


def test_other_inputs_are_another_campaign(model: Path, tmp_path: Path) -> None:
    run(model, tmp_path / "run", faults()[:3], inputs_per_injection=BATCH)
    others: list[dict[str, Any]] = [
        {"inputs_per_injection": 2 * BATCH},
        {"inputs_per_injection": None},
        {"settings": Settings(batch_size=BATCH, seed=1)},
    ]
    for change in others:
        with pytest.raises(RunError, match="holds another campaign, with other `inputs_per_injection` or its `seed`;"):
            run(model, tmp_path / "run", faults()[:3], resume=True, **{"inputs_per_injection": BATCH} | change)
    run(model, tmp_path / "run", faults()[:3], resume=True, inputs_per_injection=BATCH - 1)


def test_faults_that_name_their_inputs_are_refused(model: Path, tmp_path: Path) -> None:
    named = Injection("b", (Fault("fc", (2, 3), 30), Fault("fc", (2,), 30, site=Site.OUTPUT, input=7)))
    write_fault_list(tmp_path / "faults.csv", [neurons()[0], named])
    message = r"^faults.csv:4: injection b: `inputs_per_injection` draws .* found a fault that names its own, 7; leave"
    with pytest.raises(FaultListError, match=message):
        run(model, tmp_path / "run", tmp_path / "faults.csv", inputs_per_injection="auto")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_killed_and_resumed_it_is_the_undisturbed_run(tmp_path: Path) -> None:
    """Killed at some of its commits; between them are outcomes of some blocks, and not of others."""
    model, faults_csv = REPO / "models/digits_cnn.onnx", tmp_path / "faults.csv"
    write_fault_list(faults_csv, list(read_fault_list(REPO / "fault_lists/digits_cnn.csv"))[:60:2])

    def finish(folder: Path, resume: bool) -> bytes:
        settings = Settings(first=8, batch_size=4)
        run_campaign(
            prepare(model, settings),
            faults_csv,
            options=RunOptions(run=folder, resume=resume, workers=1, inputs_per_injection=4),
        )
        return (folder / "results.csv").read_bytes()

    expected, done = finish(tmp_path / "whole", resume=False), []
    for point in (18, 21):
        folder = tmp_path / f"run{point}"
        arguments = [REPO / "tests/kill_at.py", model, faults_csv, folder, point, 4]
        ended = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, check=False)
        assert ended.returncode == 9, ended.stderr
        done.append(len(outcomes(folder)))
        assert finish(folder, resume=True) == expected
    assert 0 < done[0] < done[1] < 30
