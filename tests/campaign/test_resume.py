"""Campaigns that were stopped, that are finished, or whose folder is not theirs: what resuming does, and what is refused."""

import json
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from bitswap_onnx.campaign import executor as execute
from bitswap_onnx.campaign import schedule as plan
from bitswap_onnx.campaign.dialects import export_dialect
from bitswap_onnx.campaign.options import Progress
from bitswap_onnx.campaign.run import Campaign
from bitswap_onnx.campaign.run_directory import reading
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.store import Store
from bitswap_onnx.data import chunks
from bitswap_onnx.errors import BitswapError, InterruptedRunError, RunError
from bitswap_onnx.faults.fault import Fault, Injection
from tests.builders import cnn, save
from tests.campaign.small_campaign import BATCH, faults, run


def test_a_finished_run_is_not_touched_and_resuming_it_rewrites_its_files(model: Path, finished_run: Path) -> None:
    results = finished_run / "results.csv"
    expected = results.read_bytes()
    with pytest.raises(RunError, match="holds a campaign already; continue it with `resume`"):
        run(model, finished_run)
    results.unlink()
    run(model, finished_run, resume=True)
    assert results.read_bytes() == expected
    assert {path.name for path in results.parent.iterdir()} == {
        "campaign.lock",
        "campaign.sqlite",
        "golden.json",
        "results.csv",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"injections": faults()[:5]}, "with other faults;"),
        ({"settings": Settings(batch_size=4)}, "with other `batch_size`, `fusion`, `layout` or `provider`;"),
        ({"settings": Settings(batch_size=BATCH, first=5)}, "with other data;"),
        (
            {"settings": Settings(batch_size=BATCH, fusion="deployed")},
            "with other `batch_size`, `fusion`, `layout` or `provider`;",
        ),
        ({"bit_order": "msb", "injections": faults()[:32]}, "with other faults, bit_order;"),
        ({"save_outputs": True}, "with other `save_outputs`, `per_input` or `detailed_log`;"),
    ],
)
def test_another_campaign_is_refused(model: Path, finished_run: Path, change: dict[str, Any], message: str) -> None:
    before = {path.name: path.read_bytes() for path in finished_run.iterdir()}
    with pytest.raises(RunError, match=f"holds another campaign, {message}"):
        run(model, finished_run, resume=True, **change)
    assert before == {path.name: path.read_bytes() for path in finished_run.iterdir()}


def test_another_model_under_the_same_name_is_refused(model: Path, finished_run: Path) -> None:
    save(cnn(seed=7), model)
    with pytest.raises(RunError, match="holds another campaign, with other model;"):
        run(model, finished_run, resume=True)


def test_a_locked_run_is_refused(model: Path, finished_run: Path) -> None:
    lock = sqlite3.connect(finished_run / "campaign.lock", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    with pytest.raises(RunError, match="another process is running this campaign"):
        run(model, finished_run, resume=True)
    lock.close()


def test_a_store_of_another_version_or_kind_is_refused(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with sqlite3.connect(folder / "campaign.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
        db.execute("CREATE TABLE t (x)")
    db.close()
    with pytest.raises(RunError, match="expected schema version 5, found 99"):
        run(model, folder)
    (folder / "campaign.sqlite").write_bytes(b"no database at all, but long enough to look at" * 20)
    with pytest.raises(RunError, match="expected a store of bitswap-onnx, found another or a damaged file"):
        run(model, folder)


def test_a_golden_run_that_rounds_otherwise_is_refused(model: Path, finished_run: Path) -> None:
    with sqlite3.connect(finished_run / "campaign.sqlite") as db:
        (text,) = db.execute("SELECT value FROM setting WHERE key = 'golden'").fetchone()
        changed = json.dumps(json.loads(text) | {"scores": "other bits", "machine": "another CPU"})
        db.execute("UPDATE setting SET value = ? WHERE key = 'golden'", (changed,))
    db.close()
    with pytest.raises(
        RunError, match="clean model's scores differ from when the campaign began \\(then on another CPU"
    ):
        run(model, finished_run, resume=True)


def test_stopping_keeps_what_is_done_and_resuming_ends_the_same(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "FIRST_UNIT", 1)
    monkeypatch.setattr(execute, "LARGEST_UNIT", 1)
    run(model, tmp_path / "whole", save_outputs=True, per_input=True)
    stop = threading.Event()
    seen: list[Progress] = []

    def watch(progress: Progress) -> None:
        seen.append(progress)
        if progress.stage == "injections" and progress.done == 7:
            stop.set()

    with pytest.raises(InterruptedRunError, match=r"continue with `resume` `run` .*/run"):
        run(model, tmp_path / "run", stop=stop, on_progress=watch, save_outputs=True, per_input=True)
    assert 7 <= seen[-1].done < seen[-1].total
    assert not (tmp_path / "run/results.csv").exists()
    run(model, tmp_path / "run", resume=True, save_outputs=True, per_input=True)
    whole, resumed = ({p.relative_to(d): p.read_bytes() for p in d.rglob("*.[cnp][spa]*") if p.suffix in (".csv", ".npy")}
                      for d in (tmp_path / "whole", tmp_path / "run"))  # fmt: skip
    assert whole == resumed
    assert len(whole) == len(faults()) + 2


def test_resuming_keeps_the_units_that_the_campaign_began_with(
    model: Path, finished: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped with some injections half done, in units of one batch, and resumed by a version with longer units."""
    stop = threading.Event()
    monkeypatch.setattr(chunks, "BATCHES_PER_CHUNK", 1)
    monkeypatch.setattr(plan, "FIRST_UNIT", 1)
    with pytest.raises(InterruptedRunError):
        run(model, tmp_path / "run", stop=stop, on_progress=lambda p: stop.set() if p.inferences > 400 else None)
    monkeypatch.undo()
    with (
        pytest.raises(RunError, match="injections have not run over all inputs; finish the campaign"),
        reading(tmp_path / "run") as store,
    ):
        export_dialect(store, "tf_injector", tmp_path / "early.csv")
    assert not (tmp_path / "early.csv").exists()
    run(model, tmp_path / "run", resume=True)
    assert (tmp_path / "run/results.csv").read_bytes() == (finished.run / "results.csv").read_bytes()


def test_a_resume_keeps_the_layout_and_may_change_the_engine(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped on whole models under plain kernels, finished by the incremental engine with ``layout`` auto."""
    plain = Settings(batch_size=BATCH, layout="plain")
    run(model, tmp_path / "whole", settings=plain)
    stop = threading.Event()
    monkeypatch.setattr(plan, "FIRST_UNIT", 2)
    reference: dict[str, Any] = {"engine": "reference", "settings": plain, "stop": stop}
    with pytest.raises(InterruptedRunError):
        run(model, tmp_path / "run", on_progress=lambda p: stop.set() if p.done > 9 else None, **reference)
    run(model, tmp_path / "run", resume=True)
    assert (tmp_path / "run/results.csv").read_bytes() == (tmp_path / "whole/results.csv").read_bytes()
    golden = json.loads((tmp_path / "run/golden.json").read_text())
    assert golden["identity"]["numerics"]["layout"] == "plain"
    assert "packed" in golden["lanes"].values()
    assert 4 <= len(golden["audit"]["checked"]) <= 10


@pytest.mark.parametrize("workers", [0, 1])
def test_seconds_of_the_workers_add_up(
    workers: int, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over the stopped run and the resume; a resume with nothing to do adds none."""
    stop = threading.Event()
    monkeypatch.setattr(plan, "FIRST_UNIT", 2)
    with pytest.raises(InterruptedRunError):
        run(model, tmp_path / "run", workers=workers, stop=stop, on_progress=lambda p: stop.set())
    with reading(tmp_path / "run") as store:
        first = store.seconds
    assert all(first[name] > 0 for name in ("faults", "controls", "loading", "start"))
    assert first["audit"] == 0
    spent = run(model, tmp_path / "run", workers=workers, resume=True).golden["seconds"]
    with reading(tmp_path / "run") as store:
        both = store.seconds
    assert all(both[name] > first[name] for name in ("faults", "loading", "start", "audit"))
    assert spent == {name: round(seconds, 3) for name, seconds in both.items()}
    assert json.loads((tmp_path / "run/golden.json").read_text())["seconds"] == spent
    assert run(model, tmp_path / "run", workers=workers, resume=True).golden["seconds"] == spent


def test_stopping_during_the_clean_run_writes_nothing(model: Path, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(InterruptedRunError, match="stopped during the clean run"):
        run(model, tmp_path / "run", stop=stop)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_somebody_else_is_left_alone(model: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    (theirs / "scratch").mkdir(parents=True)
    (theirs / "scratch" / "notes.txt").write_text("mine")
    with pytest.raises(
        RunError, match="theirs: expected an empty folder or a run directory, found other files; choose another `run`"
    ):
        run(model, theirs)
    assert [path.name for path in theirs.rglob("*")] == ["scratch", "notes.txt"]


def test_who_is_refused_the_lock_takes_nothing_away(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "campaign.scratch").mkdir(parents=True)
    lock = sqlite3.connect(folder / "campaign.lock", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    with pytest.raises(RunError, match="another process is running this campaign"):
        run(model, folder)
    assert (folder / "campaign.scratch").is_dir()
    lock.close()


def test_a_broken_lock_is_said(model: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/campaign.lock").write_bytes(b"no database at all, but long enough to look at" * 20)
    with pytest.raises(RunError, match=r"campaign.lock: cannot lock the run"):
        run(model, tmp_path / "run")


def test_outputs_that_cannot_be_written_are_said(model: Path, tmp_path: Path) -> None:
    stop = threading.Event()
    with pytest.raises(InterruptedRunError):
        run(model, tmp_path / "run", stop=stop, on_progress=lambda p: stop.set(), save_outputs=True)
    (tmp_path / "run/outputs").write_text("in the way")
    with pytest.raises(RunError, match="outputs: cannot make the folder: File exists"):
        run(model, tmp_path / "run", resume=True, save_outputs=True)


def test_a_full_disk_is_said_and_nothing_is_lost(
    model: Path, finished: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, calls = Store.add, []

    def full(self: Store, *args: Any) -> None:
        calls.append(args)
        if len(calls) == 9:
            raise sqlite3.OperationalError("database or disk is full")
        add(self, *args)

    monkeypatch.setattr(chunks, "BATCHES_PER_CHUNK", 1)
    monkeypatch.setattr(plan, "FIRST_UNIT", 1)
    monkeypatch.setattr(Store, "add", full)
    with pytest.raises(RunError, match="database or disk is full; free some space and run again with `resume`"):
        run(model, tmp_path / "run")
    monkeypatch.undo()
    run(model, tmp_path / "run", resume=True)
    assert (tmp_path / "run/results.csv").read_bytes() == (finished.run / "results.csv").read_bytes()


@pytest.mark.parametrize(
    ("injection", "message"),
    [
        (Injection("a", (Fault("cnov", (0,), 1),)), "unknown layer 'cnov'; the nearest are conv"),
        (Injection("a", (Fault("conv", (9, 0, 0, 0), 1),)), "is outside conv.weight"),
    ],
)
def test_a_wrong_row_at_the_end_writes_nothing(model: Path, tmp_path: Path, injection: Injection, message: str) -> None:
    with pytest.raises(BitswapError, match=message):
        run(model, tmp_path / "reports" / "run", [*faults(), injection])
    assert not (tmp_path / "reports").exists()


def test_a_worker_that_dies_is_said(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitswap_onnx.runtime.processes.sys.executable", "/bin/false")
    with pytest.raises(RunError, match=r"a worker ended unexpectedly \(exit status 1\)"):
        run(model, tmp_path / "run")
    monkeypatch.setattr("bitswap_onnx.runtime.processes.sys.executable", "/nowhere/python")
    with pytest.raises(RunError, match="cannot start a worker: No such file"):
        run(model, tmp_path / "run", resume=True)
