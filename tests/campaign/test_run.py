"""Campaigns: outcomes by an independent loop, results that nothing but the inputs decides, controls that catch."""

import json
import sqlite3
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from bitswap_onnx.campaign import executor as execute
from bitswap_onnx.campaign import schedule as plan
from bitswap_onnx.campaign.options import Audit, Progress, RunOptions
from bitswap_onnx.campaign.results import RESULT_COLUMNS
from bitswap_onnx.campaign.run import Campaign, run_campaign
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.data import chunks
from bitswap_onnx.errors import BitswapError, ControlFailedError, ModelError
from bitswap_onnx.faults.fault import Fault, Injection, Kind
from bitswap_onnx.faults.fault_list import read_fault_list, write_fault_list
from bitswap_onnx.outcome import COUNTS
from bitswap_onnx.runtime.model_lanes import WholeLane
from tests.builders import build, normal, save
from tests.campaign.small_campaign import BATCH, INPUTS, faults, rows, run
from tests.recorded import recorded_of


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


def test_receipts(finished: Campaign) -> None:
    """Old bits XOR new bits is the asked mask in every row, and the old bits are the model's."""
    assert tuple(rows(finished.run)[0]) == RESULT_COLUMNS
    for row in rows(finished.run):
        clean, faulty = int(row["clean_bits"], 16), int(row["faulty_bits"], 16)
        if row["Kind"] in ("flip", "mask"):
            assert clean ^ faulty == (1 << int(row["Bit"]) if row["Bit"] else int(row["Value"], 16))
        assert row["effect"] == ("changed" if clean != faulty else "none")
        assert np.uint32(clean).view(np.float32) == np.float32(row["clean_value"])
    satisfied = next(row for row in rows(finished.run) if row["Injection"] == "satisfied")
    assert (satisfied["masked"], satisfied["effect"], satisfied["critical"]) == (str(INPUTS), "none", "0")


def test_results_do_not_depend_on_workers_units_engine_or_memory(
    model: Path, finished: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(model, tmp_path / "three", workers=3)
    run(model, tmp_path / "none", workers=0)
    monkeypatch.setattr(chunks, "BATCHES_PER_CHUNK", 1)
    monkeypatch.setattr(plan, "FIRST_UNIT", 1)
    run(model, tmp_path / "chunks", workers=2)
    run(model, tmp_path / "reference", engine="reference")
    run(model, tmp_path / "tight", memory=1)
    expected = (finished.run / "results.csv").read_bytes()
    for other in ("three", "none", "chunks", "reference", "tight"):
        assert (tmp_path / other / "results.csv").read_bytes() == expected


def test_results_are_a_list_that_gives_the_same_results(model: Path, finished: Campaign, tmp_path: Path) -> None:
    results = finished.run / "results.csv"
    assert len(list(read_fault_list(results))) == len(faults())
    run(model, tmp_path / "second", results)
    assert rows(tmp_path / "second") == rows(finished.run)


def test_null_controls_hold_for_every_layer(finished_run: Path) -> None:
    with sqlite3.connect(finished_run / "campaign.sqlite") as db:
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
        run(path, tmp_path / "run", [Injection("a", (Fault("W", (0, 0), 3),))], settings=Settings(data="synthetic"))
    assert not (tmp_path / "run").exists()


def test_a_control_of_the_whole_model_that_fails_ends_the_campaign_without_results(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WholeLane, "control", lambda self, block: 0)
    with pytest.raises(ControlFailedError, match=r"null control failed: .* changed the scores of \d+ inputs"):
        run(model, tmp_path / "run", workers=0)
    assert not (tmp_path / "run/results.csv").exists()


@pytest.mark.parametrize(
    ("injections", "message"),
    [([], "the fault list has no injections"), (faults()[:2] * 2, "injection flip0 is given twice")],
)
def test_lists_given_in_memory_are_checked(
    model: Path, tmp_path: Path, injections: list[Injection], message: str
) -> None:
    with pytest.raises(BitswapError, match=message):
        run_campaign(prepare(model), injections, options=RunOptions(run=tmp_path / "run"))
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
    finished = run(model, tmp_path / "run", on_progress=seen.append, audit=Audit(10))
    last = [progress for progress in seen if progress.stage == "injections"][-1]
    assert last.done == last.exactly == last.total == len(faults())
    assert last.inferences == len(faults()) * INPUTS == finished.summary.totals["inputs"]
    assert last.critical == finished.summary.totals["critical"]
    assert [(p.done, p.total) for p in seen if p.stage == "audit"] == [(i, 10) for i in range(1, 11)]


def test_progress_of_an_injection_is_that_of_its_chunks(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two injections over three chunks, one chunk of one injection at a time: 1/3, 2/3, ... of an injection."""
    monkeypatch.setattr(chunks, "BATCHES_PER_CHUNK", 1)
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


def test_results_say_once_what_repeats(finished: Campaign) -> None:
    """Counts stand on the first row of an injection, so that a column adds up to the store's total."""
    totals = finished.summary.totals
    found = rows(finished.run)
    for name, total in {"n_injections": totals["inputs"], **{name: totals[name] for name in COUNTS}}.items():
        assert sum(int(row[name]) for row in found if row[name]) == total
    first, second = (row for row in found if row["Injection"] == "several")
    assert {first[name] == "" for name in ("n_injections", *COUNTS)} == {False}
    assert {second[name] for name in ("n_injections", *COUNTS)} == {""}
    assert (second["Layer"], second["Parameter"], second["Bit"], second["effect"]) == ("fc", "bias", "5", "changed")
    recorded = recorded_of(finished.run / "results.csv")
    assert (len(recorded), recorded.inputs.tolist()) == (len(faults()), [INPUTS] * len(faults()))
    assert {name: column.sum() for name, column in recorded.counts.items()} == {name: totals[name] for name in COUNTS}


def test_summary(finished: Campaign) -> None:
    summary = finished.summary
    by_id = {row["Injection"]: row for row in rows(finished.run) if row["n_injections"]}
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


def test_golden_json(finished: Campaign) -> None:
    golden = json.loads((finished.run / "golden.json").read_text())
    assert golden["inputs"] == INPUTS
    assert golden["providers"] == ["CPUExecutionProvider"]
    assert golden["identity"]["numerics"]["batch_size"] == BATCH
    assert golden["versions"]["onnxruntime"] == ort.__version__


def test_tolerance_for_a_model_that_is_no_classifier(tmp_path: Path) -> None:
    path = save(build("net (float[N, 3] x) => (float[N, 2, 2] y) { a = MatMul (x, W)\n s = Constant <value = int64[3] {-1, 2, 2}> ()\n y = Reshape (a, s) }", W=normal(3, 4)), tmp_path / "m.onnx")  # fmt: skip  # noqa: E501
    injections = [Injection("big", (Fault("W", (0, 0), 30),)), Injection("small", (Fault("W", (0, 0), 1),))]
    with pytest.raises(ModelError, match="pass `criterion` tolerance=REL"):
        run(path, tmp_path / "run", injections, settings=Settings(data="synthetic"))
    run(path, tmp_path / "run", injections, settings=Settings(data="synthetic", criterion="tolerance=0.01"))
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


def test_the_default_run_directory(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_fault_list("faults.csv", faults()[:2])
    finished = run_campaign(prepare(model), "faults.csv", options=RunOptions(workers=1))
    assert finished.run.parent == Path("reports/cnn/cnn")
    assert (finished.run / "results.csv").is_file()
