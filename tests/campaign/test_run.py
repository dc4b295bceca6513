"""Campaigns: outcomes by an independent loop, results that nothing but the inputs decides, controls that catch."""

import csv
import json
import sqlite3
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from bitswap_onnx.campaign import executor as execute
from bitswap_onnx.campaign import run as campaign_module
from bitswap_onnx.campaign import schedule as plan
from bitswap_onnx.campaign.audit import Audit
from bitswap_onnx.campaign.executor import Progress
from bitswap_onnx.campaign.results import RESULT_COLUMNS, export_dialect
from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.campaign.run_directory import reading
from bitswap_onnx.campaign.setup import Settings
from bitswap_onnx.campaign.store import Store
from bitswap_onnx.errors import BitswapError, ControlFailedError, InterruptedRunError, ModelError, RunError
from bitswap_onnx.estimates.read import read_recorded
from bitswap_onnx.faults.fault import Fault, Injection, Kind
from bitswap_onnx.faults.fault_list import read_fault_list, write_fault_list
from bitswap_onnx.outcome import COUNTS
from bitswap_onnx.runtime.model_lanes import WholeLane
from tests.builders import build, cnn, normal, save

INPUTS, BATCH = 20, 8


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The small CNN with labelled data beside it."""
    path = save(cnn(), tmp_path / "cnn.onnx")
    labels = np.random.default_rng(1).integers(0, 4, INPUTS)
    np.savez(tmp_path / "cnn.npz", x=normal(INPUTS, 1, 6, 6, seed=3), y=labels)
    return path


def faults() -> list[Injection]:
    """Single flips of all bits, and one injection of every other kind."""
    flips = [Injection(f"flip{bit}", (Fault("conv", (bit % 3, 0, bit % 2, 1), bit),)) for bit in range(32)]
    return [
        *flips,
        Injection("variance", (Fault("bn", (1,), 31, parameter="bn_var"),)),
        Injection("bias", (Fault("fc", (2,), 30, parameter="bias"),)),
        Injection("nan", (Fault("fc", (2, 7), None, Kind.SET, "nan"),)),
        Injection("mask", (Fault("fc", (0, 0), None, Kind.MASK, "0x40000001"),)),
        Injection("several", (Fault("conv", (0, 0, 0, 0), 29), Fault("fc", (3,), 5, parameter="bias"))),
        Injection("stuck", (Fault("conv", (0, 0, 0, 0), 30, Kind.STUCK_AT_1),)),
        Injection("satisfied", (Fault("conv", (0, 0, 0, 0), 30, Kind.STUCK_AT_0),)),
    ]


def run(model: Path, run_dir: Path, injections: Any = None, **options: Any) -> campaign_module.Campaign:
    options.setdefault("settings", Settings(batch_size=BATCH))
    return run_campaign(model, injections or faults(), run=run_dir, workers=options.pop("workers", 1), **options)


def rows(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "results.csv").open() as file:
        return list(csv.DictReader(file))


def scores_of(proto: onnx.ModelProto, faults: tuple[Fault, ...], inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Flip bits with numpy, load, and run in whole batches: nothing of ours but the fault's description."""
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    names = {"bn_var": "bn.running_var", "bias": "fc.bias", None: ""}
    for fault in faults:
        name = names[fault.parameter] or f"{fault.layer}.weight"
        tensor = next(t for t in copy.graph.initializer if t.name == name)
        values = numpy_helper.to_array(tensor).copy()
        bits = values.view(np.uint32)
        if fault.kind is Kind.FLIP:
            bits[fault.index] ^= np.uint32(1 << (fault.bit or 0))
        elif fault.kind is Kind.MASK:
            bits[fault.index] ^= np.uint32(int(fault.value or "", 16))
        elif fault.kind is Kind.SET:
            values[fault.index] = float(fault.value or "")
        elif fault.kind is Kind.STUCK_AT_1:
            bits[fault.index] |= np.uint32(1 << (fault.bit or 0))
        else:
            bits[fault.index] &= ~np.uint32(1 << (fault.bit or 0))
        tensor.CopyFrom(numpy_helper.from_array(values, name))
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    disabled = ["ConvBNFusion", "NchwcTransformer"]
    session = ort.InferenceSession(copy.SerializeToString(), options, disabled_optimizers=disabled)
    padded = np.concatenate([inputs, np.repeat(inputs[-1:], -len(inputs) % BATCH, axis=0)])
    parts = [session.run(None, {"x": padded[i : i + BATCH]})[0] for i in range(0, len(padded), BATCH)]
    scores: NDArray[np.float32] = np.concatenate(parts)[: len(inputs)]
    return scores


def test_outcomes_are_those_of_an_independent_loop(model: Path, tmp_path: Path) -> None:
    run(model, tmp_path / "run", save_outputs=True)
    data = np.load(tmp_path / "cnn.npz")
    clean = scores_of(onnx.load(model), (), data["x"])
    assert np.array_equal(np.load(tmp_path / "run/outputs/clean.npy"), clean)
    by_id = {row["Injection"]: row for row in rows(tmp_path / "run") if row["n_injections"]}
    seen = set()
    for injection in faults():
        faulty = scores_of(onnx.load(model), injection.faults, data["x"])
        saved = np.load(tmp_path / f"run/outputs/inj_{injection.id}.npy")
        assert np.array_equal(saved, faulty, equal_nan=True), injection.id
        row = by_id[injection.id]
        masked = (clean == faulty).all(axis=1)
        critical = clean.argmax(axis=1) != faulty.argmax(axis=1)
        expected = {
            "n_injections": INPUTS,
            "masked": masked.sum(),
            "critical": critical.sum(),
            "non_critical": (~masked & ~critical).sum(),
            "top_1_correct": (faulty.argmax(axis=1) == data["y"]).sum(),
            "top_1_robust": (~critical).sum(),
            "nonfinite": (~np.isfinite(faulty)).any(axis=1).sum(),
        }
        assert {name: int(row[name]) for name in expected} == expected, injection.id
        seen |= {name for name in ("masked", "critical", "non_critical", "nonfinite") if expected[name]}
    assert seen == {"masked", "critical", "non_critical", "nonfinite"}


def test_receipts(model: Path, tmp_path: Path) -> None:
    """Old bits XOR new bits is the asked mask in every row, and the old bits are the model's."""
    run(model, tmp_path / "run")
    assert tuple(rows(tmp_path / "run")[0]) == RESULT_COLUMNS
    for row in rows(tmp_path / "run"):
        clean, faulty = int(row["clean_bits"], 16), int(row["faulty_bits"], 16)
        if row["Kind"] in ("flip", "mask"):
            assert clean ^ faulty == (1 << int(row["Bit"]) if row["Bit"] else int(row["Value"], 16))
        assert row["effect"] == ("changed" if clean != faulty else "none")
        assert np.uint32(clean).view(np.float32) == np.float32(row["clean_value"])
    satisfied = next(row for row in rows(tmp_path / "run") if row["Injection"] == "satisfied")
    assert (satisfied["masked"], satisfied["effect"], satisfied["critical"]) == (str(INPUTS), "none", "0")


def test_results_do_not_depend_on_workers_units_engine_or_memory(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(model, tmp_path / "one")
    run(model, tmp_path / "three", workers=3)
    run(model, tmp_path / "none", workers=0)
    monkeypatch.setattr(plan, "BATCHES_PER_CHUNK", 1)
    monkeypatch.setattr(plan, "FIRST_UNIT", 1)
    run(model, tmp_path / "chunks", workers=2)
    run(model, tmp_path / "reference", engine="reference")
    run(model, tmp_path / "tight", memory=1)
    expected = (tmp_path / "one/results.csv").read_bytes()
    for other in ("three", "none", "chunks", "reference", "tight"):
        assert (tmp_path / other / "results.csv").read_bytes() == expected


def test_results_are_a_list_that_gives_the_same_results(model: Path, tmp_path: Path) -> None:
    run(model, tmp_path / "first")
    assert len(list(read_fault_list(tmp_path / "first/results.csv"))) == len(faults())
    run(model, tmp_path / "second", tmp_path / "first/results.csv")
    assert rows(tmp_path / "second") == rows(tmp_path / "first")


def test_null_controls_hold_for_every_layer(model: Path, tmp_path: Path) -> None:
    run(model, tmp_path / "run")
    with sqlite3.connect(tmp_path / "run/campaign.sqlite") as db:
        query = "SELECT tensors, SUM(inputs - masked) FROM control JOIN path ON number = path GROUP BY path"
        controls = dict(db.execute(query))
    db.close()
    paths = [["bn.running_var"], ["conv.weight"], ["conv.weight", "fc.bias"], ["fc.bias"], ["fc.weight"]]
    assert sorted(map(json.loads, controls)) == paths
    assert set(controls.values()) == {0}


NOISY = """net (float[N, 2] x) => (float[N, 2] y) {
    noise = RandomNormalLike (x)
    a = Add (x, noise)
    y = MatMul (a, W)
}"""


def test_a_model_that_draws_at_random_is_refused(tmp_path: Path) -> None:
    path = save(build(NOISY, W=np.eye(2, dtype=np.float32)), tmp_path / "noisy.onnx")
    with pytest.raises(ModelError, match="RandomNormalLike noise draws at random in every run"):
        run(path, tmp_path / "run", [Injection("a", (Fault("W", (0, 0), 3),))])
    assert not (tmp_path / "run").exists()


def test_a_control_of_the_whole_model_that_fails_ends_the_campaign_without_results(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WholeLane, "control", lambda self, block, rows: rows < 0)
    with pytest.raises(ControlFailedError, match=r"null control failed: .* changed \d+ outputs"):
        run(model, tmp_path / "run", workers=0)
    assert not (tmp_path / "run/results.csv").exists()


def test_a_finished_run_is_not_touched_and_resuming_it_rewrites_its_files(model: Path, tmp_path: Path) -> None:
    run(model, tmp_path / "run")
    results = tmp_path / "run/results.csv"
    expected = results.read_bytes()
    with pytest.raises(RunError, match="holds a campaign already; continue it with --resume"):
        run(model, tmp_path / "run")
    results.unlink()
    run(model, tmp_path / "run", resume=True)
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
        ({"settings": Settings(batch_size=4)}, "with other --batch-size, --fusion, --layout or --provider;"),
        ({"settings": Settings(batch_size=BATCH, first=5)}, "with other data;"),
        (
            {"settings": Settings(batch_size=BATCH, fusion="deployed")},
            "with other --batch-size, --fusion, --layout or --provider;",
        ),
        ({"bit_order": "msb", "injections": faults()[:32]}, "with other faults, bit_order;"),
        ({"save_outputs": True}, "with other --save-outputs, --per-input or --detailed-log;"),
    ],
)
def test_another_campaign_is_refused(model: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    run(model, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(RunError, match=f"holds another campaign, {message}"):
        run(model, tmp_path / "run", resume=True, **change)
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}


def test_another_model_under_the_same_name_is_refused(model: Path, tmp_path: Path) -> None:
    run(model, tmp_path / "run")
    save(cnn(seed=7), model)
    with pytest.raises(RunError, match="holds another campaign, with other model;"):
        run(model, tmp_path / "run", resume=True)


def test_a_locked_run_is_refused(model: Path, tmp_path: Path) -> None:
    run(model, tmp_path / "run")
    lock = sqlite3.connect(tmp_path / "run/campaign.lock", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    with pytest.raises(RunError, match="another process is running this campaign"):
        run(model, tmp_path / "run", resume=True)
    lock.close()


def test_a_store_of_another_version_or_kind_is_refused(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with sqlite3.connect(folder / "campaign.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
        db.execute("CREATE TABLE t (x)")
    db.close()
    with pytest.raises(RunError, match="expected schema version 4, found 99"):
        run(model, folder)
    (folder / "campaign.sqlite").write_bytes(b"no database at all, but long enough to look at" * 20)
    with pytest.raises(RunError, match="not a store of bitswap-onnx"):
        run(model, folder)


def test_a_golden_run_that_rounds_otherwise_is_refused(model: Path, tmp_path: Path) -> None:
    run(model, tmp_path / "run")
    with sqlite3.connect(tmp_path / "run/campaign.sqlite") as db:
        (text,) = db.execute("SELECT value FROM setting WHERE key = 'golden'").fetchone()
        changed = json.dumps(json.loads(text) | {"scores": "other bits", "machine": "another CPU"})
        db.execute("UPDATE setting SET value = ? WHERE key = 'golden'", (changed,))
    db.close()
    with pytest.raises(
        RunError, match="clean model's scores differ from when the campaign began \\(then on another CPU"
    ):
        run(model, tmp_path / "run", resume=True)


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

    with pytest.raises(InterruptedRunError, match=r"continue with --resume --out .*/run"):
        run(model, tmp_path / "run", stop=stop, on_progress=watch, save_outputs=True, per_input=True)
    assert 7 <= seen[-1].done < seen[-1].total
    assert not (tmp_path / "run/results.csv").exists()
    run(model, tmp_path / "run", resume=True, save_outputs=True, per_input=True)
    whole, resumed = ({p.relative_to(d): p.read_bytes() for p in d.rglob("*.[cnp][spa]*") if p.suffix in (".csv", ".npy")}
                      for d in (tmp_path / "whole", tmp_path / "run"))  # fmt: skip
    assert whole == resumed
    assert len(whole) == len(faults()) + 2


def test_resuming_keeps_the_units_that_the_campaign_began_with(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped with some injections half done, in units of one batch, and resumed by a version with longer units."""
    run(model, tmp_path / "whole")
    stop = threading.Event()
    monkeypatch.setattr(plan, "BATCHES_PER_CHUNK", 1)
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
    assert (tmp_path / "run/results.csv").read_bytes() == (tmp_path / "whole/results.csv").read_bytes()


def test_a_resume_keeps_the_layout_and_may_change_the_engine(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped on whole models under plain kernels, finished by the incremental engine with ``--layout auto``."""
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
    assert len(golden["audit"]["checked"]) == 10


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
    with pytest.raises(RunError, match="theirs: holds files that are no campaign's; choose another --out"):
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


@pytest.mark.parametrize(
    ("injections", "message"),
    [([], "the fault list has no injections"), (faults()[:2] * 2, "injection flip0 is given twice")],
)
def test_lists_given_in_memory_are_checked(
    model: Path, tmp_path: Path, injections: list[Injection], message: str
) -> None:
    with pytest.raises(BitswapError, match=message):
        run_campaign(model, injections, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_generator_of_injections(model: Path, tmp_path: Path) -> None:
    finished = run(model, tmp_path / "run", (injection for injection in faults()[:3]))
    assert finished.summary.injections == 3


def test_a_module_in_the_working_directory_is_never_run(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cwd").mkdir()
    (tmp_path / "cwd" / "onnx.py").write_text("open('executed', 'w').close()\nraise SystemExit(5)\n")
    monkeypatch.chdir(tmp_path / "cwd")
    run(model, tmp_path / "run", faults()[:2])
    assert not (tmp_path / "cwd" / "executed").exists()


def test_outputs_that_cannot_be_written_are_said(model: Path, tmp_path: Path) -> None:
    stop = threading.Event()
    with pytest.raises(InterruptedRunError):
        run(model, tmp_path / "run", stop=stop, on_progress=lambda p: stop.set(), save_outputs=True)
    (tmp_path / "run/outputs").write_text("in the way")
    with pytest.raises(RunError, match="outputs: cannot make the folder: File exists"):
        run(model, tmp_path / "run", resume=True, save_outputs=True)


def test_nonfinite_golden_scores_are_counted_alike_everywhere(tmp_path: Path) -> None:
    """A golden -Inf is a score like any other; a satisfied stuck-at there is masked and nonfinite."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra [parquet]")
    text = "net (float[N, 2] x) => (float[N, 2] y) {\n a = MatMul (x, W)\n y = Log (a)\n}"
    path = save(build(text, W=np.array([[1, 0], [0, 1]], np.float32)), tmp_path / "m.onnx")
    np.savez(tmp_path / "m.npz", x=np.array([[1, 0], [1, 1]], np.float32))
    satisfied = Injection("s", (Fault("W", (0, 1), 3, Kind.STUCK_AT_0),))
    run(path, tmp_path / "run", [satisfied], per_input=True)
    assert [row["nonfinite"] for row in rows(tmp_path / "run")] == ["1"]
    assert parquet.read_table(tmp_path / "run/per_input.parquet")["nonfinite"].to_pylist() == [True, False]


def test_progress_counts(model: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    finished = run(model, tmp_path / "run", on_progress=seen.append)
    last = [progress for progress in seen if progress.stage == "injections"][-1]
    assert last.done == last.exactly == last.total == len(faults())
    assert last.inferences == len(faults()) * INPUTS == finished.summary.totals["inputs"]
    assert last.critical == finished.summary.totals["critical"]
    assert [(p.done, p.total) for p in seen if p.stage == "audit"] == [(i, 10) for i in range(1, 11)]


def test_progress_of_an_injection_is_that_of_its_chunks(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two injections over three chunks, one chunk of one injection at a time: 1/3, 2/3, ... of an injection."""
    monkeypatch.setattr(plan, "FIRST_UNIT", 1)
    monkeypatch.setattr(execute, "LARGEST_UNIT", 1)
    seen: list[Progress] = []
    run(model, tmp_path / "run", faults()[:2], on_progress=seen.append, audit=Audit(0))
    assert [(p.done, p.total) for p in seen] == [(0, 2), (0, 2), (1, 2), (1, 2), (1, 2), (2, 2)]
    assert [p.exactly for p in seen] == pytest.approx([1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2])


def test_per_input_outcomes_add_up(model: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra [parquet]")
    run(model, tmp_path / "run", per_input=True)
    table = parquet.read_table(tmp_path / "run/per_input.parquet").to_pydict()
    for row in (row for row in rows(tmp_path / "run") if row["n_injections"]):
        mine = [i for i, name in enumerate(table["injection"]) if name == row["Injection"]]
        assert [table["input"][i] for i in mine] == list(range(INPUTS))
        for outcome in ("masked", "non_critical", "critical"):
            assert sum(table["outcome"][i] == outcome for i in mine) == int(row[outcome])
        assert sum(table["nonfinite"][i] for i in mine) == int(row["nonfinite"])


def test_results_say_once_what_repeats(model: Path, tmp_path: Path) -> None:
    """Counts stand on the first row of an injection, so that a column adds up to the store's total."""
    totals = run(model, tmp_path / "run").summary.totals
    found = rows(tmp_path / "run")
    for name, total in {"n_injections": totals["inputs"], **{name: totals[name] for name in COUNTS}}.items():
        assert sum(int(row[name]) for row in found if row[name]) == total
    first, second = (row for row in found if row["Injection"] == "several")
    assert {first[name] == "" for name in ("n_injections", *COUNTS)} == {False}
    assert {second[name] for name in ("n_injections", *COUNTS)} == {""}
    assert (second["Layer"], second["Parameter"], second["Bit"], second["effect"]) == ("fc", "bias", "5", "changed")
    recorded = read_recorded(tmp_path / "run/results.csv")
    assert (len(recorded), recorded.inputs.tolist()) == (len(faults()), [INPUTS] * len(faults()))
    assert {name: column.sum() for name, column in recorded.counts.items()} == {name: totals[name] for name in COUNTS}


def test_summary(model: Path, tmp_path: Path) -> None:
    summary = run(model, tmp_path / "run").summary
    by_id = {row["Injection"]: row for row in rows(tmp_path / "run") if row["n_injections"]}
    for name in COUNTS:
        assert summary.totals[name] == sum(int(row[name]) for row in by_id.values())
    assert [(name, number) for name, number, _ in summary.bit_classes] == [
        ("sign", 2),
        ("exponent", 12),
        ("mantissa", 23),
        ("other", 2),
    ]
    criticals = sorted((int(row["critical"]) for row in by_id.values() if row["critical"] != "0"), reverse=True)
    assert [critical for *_, critical, _ in summary.worst] == criticals[:5]


def test_golden_json(model: Path, tmp_path: Path) -> None:
    run(model, tmp_path / "run")
    golden = json.loads((tmp_path / "run/golden.json").read_text())
    assert golden["inputs"] == INPUTS
    assert golden["providers"] == ["CPUExecutionProvider"]
    assert golden["identity"]["numerics"]["batch_size"] == BATCH
    assert golden["versions"]["onnxruntime"] == ort.__version__


def test_tolerance_for_a_model_that_is_no_classifier(tmp_path: Path) -> None:
    path = save(build("net (float[N, 3] x) => (float[N, 2, 2] y) { a = MatMul (x, W)\n s = Constant <value = int64[3] {-1, 2, 2}> ()\n y = Reshape (a, s) }", W=normal(3, 4)), tmp_path / "m.onnx")  # fmt: skip  # noqa: E501
    injections = [Injection("big", (Fault("W", (0, 0), 30),)), Injection("small", (Fault("W", (0, 0), 1),))]
    with pytest.raises(ModelError, match="pass --criterion tolerance=REL"):
        run(path, tmp_path / "run", injections)
    run(path, tmp_path / "run", injections, settings=Settings(criterion="tolerance=0.01"))
    big, small = rows(tmp_path / "run")
    assert int(big["critical"]) > 100
    assert (small["critical"], small["top_1_robust"], small["sdc_5"]) == ("0", "", "")


def test_tied_weights_hit_all_users(tmp_path: Path) -> None:
    text = "net (float[N, 2] x) => (float[N, 2] y) {\n [first] a = MatMul (x, W)\n [last] y = MatMul (a, W)\n}"
    path = save(build(text, W=np.eye(2, dtype=np.float32)), tmp_path / "m.onnx")
    np.savez(tmp_path / "m.npz", x=np.ones((4, 2), np.float32))
    injection = Injection("two", (Fault("last", (0, 0), None, Kind.SET, "3"),))
    run(path, tmp_path / "run", [injection], save_outputs=True)
    assert np.load(tmp_path / "run/outputs/inj_two.npy").tolist() == [[9.0, 1.0]] * 4
    assert rows(tmp_path / "run")[0]["effect"] == "changed in first;last"


def test_external_data(tmp_path: Path) -> None:
    proto = build("net (float[N, 3] x) => (float[N, 3] y) { y = MatMul (x, W) }", W=np.eye(3, dtype=np.float32))
    onnx.save_model(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    np.savez(tmp_path / "m.npz", x=np.ones((4, 3), np.float32))
    injection = Injection("a", (Fault("W", (1, 1), None, Kind.SET, "3"),))
    run(tmp_path / "m.onnx", tmp_path / "run", [injection], save_outputs=True)
    assert np.load(tmp_path / "run/outputs/inj_a.npy").tolist() == [[1.0, 3.0, 1.0]] * 4


def test_a_full_disk_is_said_and_nothing_is_lost(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(model, tmp_path / "whole")
    add, calls = Store.add, []

    def full(self: Store, *args: Any) -> None:
        calls.append(args)
        if len(calls) == 9:
            raise sqlite3.OperationalError("database or disk is full")
        add(self, *args)

    monkeypatch.setattr(plan, "FIRST_UNIT", 1)
    monkeypatch.setattr(Store, "add", full)
    with pytest.raises(RunError, match="database or disk is full; free some space and run again with --resume"):
        run(model, tmp_path / "run")
    monkeypatch.undo()
    run(model, tmp_path / "run", resume=True)
    assert (tmp_path / "run/results.csv").read_bytes() == (tmp_path / "whole/results.csv").read_bytes()


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
    monkeypatch.setattr("bitswap_onnx.runtime.pool.sys.executable", "/bin/false")
    with pytest.raises(RunError, match=r"a worker ended unexpectedly \(exit status 1\)"):
        run(model, tmp_path / "run")
    monkeypatch.setattr("bitswap_onnx.runtime.pool.sys.executable", "/nowhere/python")
    with pytest.raises(RunError, match="cannot start a worker: No such file"):
        run(model, tmp_path / "run", resume=True)


def test_the_default_run_directory(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_fault_list("faults.csv", faults()[:2])
    finished = run_campaign(model, "faults.csv", workers=1)
    assert finished.run.parent == Path("reports/cnn/cnn")
    assert (finished.run / "results.csv").is_file()
