"""Stores that somebody changed, or a disk damaged: refused on resume, each with a sentence that names what is wrong."""

import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.campaign.run_directory import reading
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.campaign.stored_settings import misfit
from bitswap_onnx.data import chunks
from bitswap_onnx.errors import BitswapError, RunError
from bitswap_onnx.runtime.stopwatch import SPANS
from tests.campaign.old_stores import finish, injections, old_model
from tests.campaigns import rows_of_store
from tests.recorded import recorded_of

#: What was done to the file, and what the sentence says; of tables and settings, to all who read a store.
SCHEMA = [
    ("CREATE TRIGGER t AFTER INSERT ON control BEGIN DELETE FROM outcome; END", "found the trigger 't'"),
    ("CREATE VIEW v AS SELECT 1", "found the view 'v'"),
    ("CREATE TABLE mine (x)", "found the table 'mine'"),
    ("CREATE INDEX more ON outcome (masked)", "found the index 'more'"),
    ("DROP TABLE control", "found no table control"),
    ("ALTER TABLE outcome ADD COLUMN x", "found other columns in the table outcome"),
    ("ALTER TABLE path RENAME COLUMN tensors TO x", "found other columns in the table path"),
    ("ALTER TABLE outcome RENAME TO x; CREATE VIEW outcome AS SELECT * FROM x", "found the (view 'outcome'|table 'x')"),
    ("PRAGMA user_version = 4", "expected the tables of a run alone, found the table 'measure'"),
    ("PRAGMA user_version = 0", "expected the tables of a run alone, found the table 'setting'"),
    ("PRAGMA user_version = 9", "expected schema version 5, found 9"),
]
SETTINGS = [
    ("DELETE FROM setting WHERE key = 'identity'", "the setting identity: it is missing"),
    ("UPDATE setting SET value = '{' WHERE key = 'golden'", "the setting golden: expected JSON"),
    (
        "UPDATE setting SET value = '[]' WHERE key = 'identity'",
        r"the setting identity: expected an object, found '\[\]'",
    ),
    (
        "UPDATE setting SET value = '0' WHERE key = 'unit_length'",
        "expected a whole number from 1 on, found '0'",
    ),
    ("UPDATE setting SET value = 'true' WHERE key = 'unit_length'", "unit_length: expected a whole number from 1 on"),
    (
        "UPDATE setting SET value = '\"x\"' WHERE key = 'engine'",
        "setting engine: expected one of incremental, reference",
    ),
    ("UPDATE setting SET value = '[1]' WHERE key = 'notes'", r"the setting notes: expected text as \[0\], found '1'"),
    ("UPDATE setting SET value = json_remove(value, '$.scores') WHERE key = 'golden'", "golden: it has no scores"),
    (
        "UPDATE setting SET value = json_set(value, '$.numerics.layout', 'any') WHERE key = 'identity'",
        "the setting identity: expected one of plain, blocked as numerics.layout, found 'any'",
    ),
    (
        "UPDATE setting SET value = json_set(value, '$.inputs', '4') WHERE key = 'golden'",
        "the setting golden: expected a whole number from 1 on as inputs, found '4'",
    ),
]
CONTENT = [
    # the plan
    ("UPDATE receipt SET mask = '1' WHERE position = 0", "are not those that were committed, by their hash"),
    ("UPDATE receipt SET element = element + 1 WHERE position = 1 AND row = 1", "by their hash"),
    ("DELETE FROM receipt WHERE position = 1 AND row = 1", "by their hash"),
    ("DELETE FROM setting WHERE key = 'plan'", "expected the setting plan, the hash of its injections, found none"),
    ("UPDATE injection SET id = 'other' WHERE position = 3", "by their hash"),
    ("UPDATE injection SET changes = 0 WHERE position = 0", "by their hash"),
    ("UPDATE path SET tensors = '[\"fc.bias\"]'", "by their hash"),
    ("INSERT INTO path VALUES (7, '[\"x\"]')", r"found a faulty path of no injection \(7\)"),
    ("INSERT INTO receipt (position, row) VALUES (9, 0)", r"found a receipt of no injection \(9\)"),
    # outcomes
    ("UPDATE outcome SET position = 9 WHERE position = 0", "has an injection that is not in the plan"),
    ("UPDATE outcome SET first = 1 WHERE first = 0 AND position = 0", "from input 1 on has inputs that are no chunk"),
    ("UPDATE outcome SET first = 4 WHERE first = 0 AND position = 0", "from input 4 on has inputs that are no chunk"),
    ("UPDATE outcome SET first = -2 WHERE first = 0 AND position = 0", "has inputs that are no chunk of the run"),
    ("UPDATE outcome SET inputs = 1 WHERE position = 0", "injection flip from input 0 on has another number of inputs"),
    ("UPDATE outcome SET sdc_5 = -1 WHERE position = 0", "has counts that are no whole numbers of its inputs"),
    ("UPDATE outcome SET sdc_5 = 0.5 WHERE position = 0", "has counts that are no whole numbers of its inputs"),
    ("UPDATE outcome SET sdc_5 = 'x' WHERE position = 0", "has counts that are no whole numbers of its inputs"),
    ("UPDATE outcome SET sdc_5 = NULL WHERE position = 0", "has counts that are no whole numbers of its inputs"),
    (
        "UPDATE outcome SET masked = 1 WHERE position = 0 AND first = 0",
        "has masked, non-critical, critical and failed inferences that do not add up",
    ),
    (
        "UPDATE outcome SET critical_nonfinite = 2 WHERE position = 0",
        "has more critical nonfinite inferences than critical or nonfinite ones",
    ),
    ("UPDATE outcome SET masked = 1, non_critical = 1 WHERE position = 2", "not masked, though no bit changed"),
    ("UPDATE outcome SET top_1_robust = 2 WHERE position = 0 AND first = 0", "has robust inferences that are critical"),
    ("UPDATE outcome SET per_input = X'00' WHERE position = 0", r"has other records \(per_input\) than it keeps"),
    ("UPDATE outcome SET scores = NULL WHERE position = 0", r"has other records \(scores\) than it keeps"),
    # null controls
    (
        "UPDATE control SET first = 1 WHERE first = 0",
        "control of path 0 from input 1 on has inputs that are no chunk",
    ),
    ("UPDATE control SET path = 5", r"found a null control of no injection \(5\)"),
    (
        "UPDATE control SET masked = 3",
        "the null control of path 0 from input 0 on has .* an impossible number of masked ones",
    ),
    # settings that follow from the model, the data and each other
    ("UPDATE setting SET value = '3' WHERE key = 'unit_length'", "unit_length: expected whole batches of 2, found 3"),
    (
        "UPDATE setting SET value = json_set(value, '$.top_1_correct', 4) WHERE key = 'golden'",
        "the setting golden: expected 2 as top_1_correct, found 4",
    ),
    (
        "UPDATE setting SET value = json_set(value, '$.inputs', 5) WHERE key = 'golden'",
        "the setting golden: expected 4 as inputs, found 5",
    ),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of four injections over two chunks of two inputs each."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "BATCHES_PER_CHUNK", 1)
        finish(folder, folder / "run", resume=False)
    return folder / "run"


def change(run: Path, *statements: str) -> None:
    with closing(sqlite3.connect(run / "campaign.sqlite")) as db:
        for statement in statements:
            db.executescript(statement)


@pytest.fixture(params=["finished", "half"])
def run(request: pytest.FixtureRequest, whole: Path, tmp_path: Path) -> Path:
    """That run, finished, or stopped before the last outcome of one injection and with no audit."""
    shutil.copytree(whole, tmp_path / "run")
    if request.param == "half":
        change(tmp_path / "run", "DELETE FROM outcome WHERE position = 3 AND first = 2")
    return tmp_path / "run"


@pytest.mark.parametrize(("statement", "message"), [*SCHEMA, *SETTINGS, *CONTENT])
def test_a_changed_store_is_not_resumed(run: Path, tmp_path: Path, statement: str, message: str) -> None:
    change(run, statement)
    before = (run / "results.csv").read_bytes()
    with pytest.raises(RunError, match=message) as caught:
        finish(tmp_path, run, resume=True)
    text = str(caught.value)
    assert str(run) in text
    assert "\n" not in text
    assert caught.value.exit_code == 1
    if "schema version 5, found 9" not in text:
        assert text.endswith("the store was changed or damaged: run the campaign again in another `run`")
    assert (run / "results.csv").read_bytes() == before


@pytest.mark.parametrize(("statement", "message"), [*SCHEMA, *SETTINGS])
def test_nor_is_it_read(whole: Path, tmp_path: Path, statement: str, message: str) -> None:
    shutil.copytree(whole, tmp_path / "run")
    change(tmp_path / "run", statement)
    with pytest.raises(RunError, match=message):
        recorded_of(tmp_path / "run")


def test_what_is_not_changed_is_resumed(run: Path, tmp_path: Path) -> None:
    """Settings and indices that SQLite or a later version adds are no harm."""
    before = (run / "results.csv").read_bytes()
    change(run, "ANALYZE", "DROP INDEX outcome_first", "INSERT INTO setting VALUES ('later', '{}')")
    finish(tmp_path, run, resume=True)
    assert (run / "results.csv").read_bytes() == before


def test_failed_inferences_are_a_fourth_outcome(run: Path) -> None:
    """Masked, non-critical, critical and failed inferences are all inputs; further numbers have a table."""
    change(
        run,
        "UPDATE outcome SET masked = 0, top_1_robust = 1, failed = 1 WHERE position = 3 AND first = 0",
        "INSERT INTO measure VALUES (3, 0, 'largest change', 0.5)",
    )
    with reading(run) as store:
        store.check_outcomes()
    change(run, "UPDATE outcome SET failed = 2 WHERE position = 3 AND first = 0")
    with reading(run) as store, pytest.raises(RunError, match="failed inferences that do not add up to its inputs"):
        store.check_outcomes()


def test_without_labels_and_records(tmp_path: Path) -> None:
    """Counts that do not apply are NULL; records that were not asked for too."""
    model = old_model(tmp_path)
    np.savez(tmp_path / "old.npz", x=np.arange(12, dtype=np.float32).reshape(4, 3) - 5)
    setup, options = prepare(model, Settings(batch_size=2)), RunOptions(run=tmp_path / "run", workers=0)
    run_campaign(setup, injections(), options=options)
    run_campaign(setup, injections(), options=replace(options, resume=True))
    change(tmp_path / "run", "UPDATE outcome SET top_1_correct = 0")
    with pytest.raises(RunError, match="has counts that are no whole numbers"):
        run_campaign(setup, injections(), options=replace(options, resume=True))


@pytest.mark.parametrize(
    ("key", "value", "wrong"),
    [
        ("unit_length", 1, None),
        ("unit_length", 1.0, "expected a whole number from 1 on, found '1.0'"),
        ("audit", None, None),
        ("audit", {"checked": ["a"], "different": []}, None),
        ("audit", {"checked": ["a"]}, "it has no different"),
        ("audit", {"checked": ["a"], "different": [], "x": 1}, "it has 'x'"),
        ("given_up", [0, -1], "expected a whole number from 0 on as [1], found '-1'"),
        ("until", [], "expected an object, found '[]'"),
        ("identity", None, "expected an object, found 'None'"),
        ("design", 3, "expected text, found '3'"),
        ("seconds", dict.fromkeys(SPANS, 0.5), None),
        ("seconds", {**dict.fromkeys(SPANS, 0), "audit": "1"}, "expected a finite number as audit, found '1'"),
        ("growing", 1, "expected true or false, found '1'"),
        ("whatever", [object], None),
    ],
)
def test_shapes_of_settings(key: str, value: Any, wrong: str | None) -> None:
    assert misfit(key, value) == wrong


def test_every_setting_of_a_run_has_a_shape(whole: Path) -> None:
    kept: dict[str, str] = dict(rows_of_store(whole, "SELECT key, value FROM setting"))
    assert {key for key, value in kept.items() if misfit(key, json.loads(value))} == set()
    assert set(kept) >= {"identity", "golden", "plan", "unit_length", "notes", "lanes"}


def test_a_database_that_is_none_of_ours(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    change(tmp_path / "run", "CREATE TABLE t (x)", "PRAGMA user_version = 5")
    with pytest.raises(BitswapError, match="expected the tables of a run alone, found the table 't'"):
        finish(tmp_path, tmp_path / "run", resume=False)
