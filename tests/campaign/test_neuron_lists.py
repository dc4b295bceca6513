"""Neuron campaigns from list to files: counts, receipts, engines, interruptions."""

import csv
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from bitswap_onnx.campaign import executor as execute
from bitswap_onnx.campaign import schedule as plan
from bitswap_onnx.campaign.dialects import export_dialect
from bitswap_onnx.campaign.options import Progress, RunOptions
from bitswap_onnx.campaign.run import Campaign, run_campaign
from bitswap_onnx.campaign.run_directory import reading
from bitswap_onnx.campaign.schedule import join_paths
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.data import chunks
from bitswap_onnx.errors import BitswapError, InterruptedRunError, RunError
from bitswap_onnx.experiments.comparison.paired_runs import read_pair
from bitswap_onnx.faults.fault import Fault, Injection, Kind, Site
from bitswap_onnx.faults.fault_list import read_fault_list, write_fault_list
from tests.builders import cnn, normal, save
from tests.campaigns import rows_of_store

INPUTS, BATCH = 22, 4
SHAPES = {"x": (1, 6, 6), "conv": (3, 4, 4), "b": (3, 4, 4), "c": (3, 4, 4), "fc": (4,)}

Patch = pytest.MonkeyPatch


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = save(cnn(), tmp_path / "cnn.onnx")
    labels = np.random.default_rng(1).integers(0, 4, INPUTS)
    np.savez(tmp_path / "cnn.npz", x=normal(INPUTS, 1, 6, 6, seed=3), y=labels)
    return path


def faults() -> list[Injection]:
    """Of one input, of all, one per input; weights among them; sites behind each other and beside each other."""
    draw = np.random.default_rng(5)

    def fault(layer: str, which: int | None, bit: int | None = None) -> Fault:
        index = tuple(int(draw.integers(size)) for size in SHAPES[layer])
        return Fault(layer, index, int(draw.integers(20, 32)) if bit is None else bit, site=Site.OUTPUT, input=which)

    layers = [*SHAPES]
    found = [Injection(f"one{i}", (fault(layers[i % 5], int(draw.integers(INPUTS))),)) for i in range(25)]
    found += [Injection(f"all{i}", (fault(layers[i % 5], None, 30 - i % 3),)) for i in range(10)]
    found += [Injection(f"each{i}", tuple(fault("conv", n) for n in range(INPUTS))) for i in range(2)]
    found += [Injection("some", tuple(fault(layer, n) for n in (1, 20, 7) for layer in ("conv", "c")))]
    found += [Injection("before", (Fault("fc", (40,), 30, site=Site.INPUT, input=21),))]
    found += [Injection("mixed", (fault("c", 2), Fault("fc", (2, 3), 30)))]
    found += [Injection("satisfied", (Fault("c", (0, 0, 0), 31, Kind.STUCK_AT_0, site=Site.OUTPUT, input=3),))]
    return [*found, Injection("set", (Fault("b", (1, 1, 1), None, Kind.SET, "nan", site=Site.OUTPUT, input=19),))]


def run(model: Path, folder: Path, injections: Any = None, **options: Any) -> Campaign:
    settings = options.pop("settings", Settings(batch_size=BATCH, layout="plain"))
    return run_campaign(
        prepare(model, settings), injections or faults(), options=RunOptions(**{"run": folder, "workers": 1, **options})
    )


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def results(folder: Path) -> bytes:
    return (folder / "results.csv").read_bytes()


def over(injection: Injection) -> list[int]:
    """The inputs that an injection runs over."""
    named = {fault.input for fault in injection.faults}
    return [*range(INPUTS)] if None in named else sorted(number for number in named if number is not None)


def test_counts_and_files_are_over_the_inputs_that_were_run(model: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra [parquet]")
    finished = run(model, tmp_path / "run", save_outputs=True, per_input=True)
    by_id = {row["Injection"]: row for row in rows(tmp_path / "run") if row["n_injections"]}
    table = parquet.read_table(tmp_path / "run/per_input.parquet").to_pydict()
    clean = np.load(tmp_path / "run/outputs/clean.npy")
    inferences = 0
    for injection in faults():
        row, inputs = by_id[injection.id], over(injection)
        counts = [int(row[name]) for name in ("masked", "non_critical", "critical")]
        assert int(row["n_injections"]) == len(inputs) == sum(counts), injection.id
        scores = np.load(tmp_path / f"run/outputs/inj_{injection.id}.npy")
        assert scores.shape == (len(inputs), 4)
        mine = [i for i, name in enumerate(table["injection"]) if name == injection.id]
        assert [table["input"][i] for i in mine] == inputs
        golden = clean[inputs]
        critical = golden.argmax(axis=1) != scores.argmax(axis=1)
        masked = (golden == scores).all(axis=1)
        names = np.where(critical, "critical", np.where(masked, "masked", "non_critical"))
        assert [table["outcome"][i] for i in mine] == names.tolist(), injection.id
        assert counts == [int((names == name).sum()) for name in ("masked", "non_critical", "critical")]
        inferences += len(inputs)
    assert finished.summary.totals["inputs"] == inferences
    assert sum(number for _, number, _ in finished.summary.bit_classes) == len(faults())


def values_of(model: Path, names: list[str]) -> dict[str, NDArray[Any]]:
    """Values of the clean model, made outputs; batches of the campaign's size, as the rounding asks for."""
    proto, x = onnx.load(model), np.load(model.with_suffix(".npz"))["x"]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name != "scores")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    handle = ort.InferenceSession(proto.SerializeToString(), options)
    padded = np.concatenate([x, np.repeat(x[-1:], -len(x) % BATCH, axis=0)])
    parts = [handle.run(names, {"x": padded[i : i + BATCH]}) for i in range(0, len(padded), BATCH)]
    return {
        "x": x,
        **{name: np.concatenate(arrays) for name, arrays in zip(names, zip(*parts, strict=True), strict=True)},
    }


def test_receipts_are_the_values_of_the_clean_model(model: Path, tmp_path: Path) -> None:
    run(model, tmp_path / "run")
    values = values_of(model, ["a", "b", "c", "d", "scores"])
    holds = {"x": "x", "conv": "a", "b": "b", "c": "c", "fc": "scores"}
    listed = [(injection, fault) for injection in faults() for fault in injection.faults]
    hidden: set[str] = set()
    for row, (injection, fault) in zip(rows(tmp_path / "run"), listed, strict=True):
        assert row["Injection"] == injection.id
        if fault.site is None:
            continue
        assert (row["Layer"], row["Site"], row["Parameter"]) == (fault.layer, fault.site.value, "")
        if fault.input is None:
            assert (row["Input"], row["clean_bits"], row["effect"]) == ("all", "", "per input")
            continue
        if row["effect"] == "behind other faults":
            assert (row["Input"], row["clean_bits"], row["faulty_value"]) == (str(fault.input), "", "")
            hidden.add(injection.id)
            continue
        value = values["d" if fault.site is Site.INPUT else holds[fault.layer]][(fault.input, *fault.index)]
        clean = int(np.float32(value).view(np.uint32))
        expected = {Kind.FLIP: clean ^ 1 << (fault.bit or 0), Kind.STUCK_AT_0: clean & 0x7FFFFFFF}
        faulty = expected.get(fault.kind, 0x7FC00000)
        assert (row["Input"], row["clean_bits"]) == (str(fault.input), f"0x{clean:08x}")
        assert row["faulty_bits"] == f"0x{faulty:08x}"
        assert row["effect"] == ("none" if clean == faulty else "changed")
        assert np.float32(row["clean_value"]) == value
    assert hidden == {"some"}


def test_nothing_but_the_list_decides(model: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    """Two workers, small chunks and units, either engine, little memory: the same bytes, records of each input included."""
    run(model, tmp_path / "one", per_input=True)
    monkeypatch.setattr(chunks, "BATCHES_PER_CHUNK", 1)
    monkeypatch.setattr(plan, "FIRST_UNIT", 2)
    run(model, tmp_path / "chunks", per_input=True, workers=2)
    run(model, tmp_path / "reference", per_input=True, engine="reference")
    run(model, tmp_path / "tight", per_input=True, memory=1)
    for other in ("chunks", "reference", "tight"):
        assert results(tmp_path / other) == results(tmp_path / "one")
        assert _joined(tmp_path / other) == _joined(tmp_path / "one")
    kinds = json.loads((tmp_path / "one/golden.json").read_text())["lanes"].values()
    assert "neuron" in kinds


def _joined(run: Path) -> dict[int, bytes]:
    blobs: dict[int, bytes] = {}
    for position, blob in rows_of_store(run, "SELECT position, per_input FROM outcome ORDER BY position, first"):
        blobs[position] = blobs.get(position, b"") + blob
    return blobs


def test_results_are_a_list_that_gives_the_same_results(model: Path, tmp_path: Path) -> None:
    write_fault_list(tmp_path / "f.csv", faults())
    run(model, tmp_path / "first", tmp_path / "f.csv")
    again = list(read_fault_list(tmp_path / "first/results.csv"))
    plain = [
        tuple(f if f.site else Fault(f.layer, f.index, f.bit, parameter="weight") for f in i.faults) for i in faults()
    ]
    assert [injection.faults for injection in again] == plain
    run(model, tmp_path / "second", tmp_path / "first/results.csv")
    assert rows(tmp_path / "second") == rows(tmp_path / "first")


def stop_after(model: Path, folder: Path, engine: str, done: int) -> None:
    """Run, or go on, until so many injections are done."""
    stop = threading.Event()

    def watch(progress: Progress) -> None:
        if progress.done >= done:
            stop.set()

    options: dict[str, Any] = {"engine": engine, "stop": stop, "on_progress": watch}
    with pytest.raises(InterruptedRunError):
        run(model, folder, resume=folder.exists(), per_input=True, **options)


def test_stopped_and_resumed_it_ends_the_same(model: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    run(model, tmp_path / "whole", per_input=True)
    monkeypatch.setattr(chunks, "BATCHES_PER_CHUNK", 1)
    monkeypatch.setattr(plan, "FIRST_UNIT", 1)
    monkeypatch.setattr(execute, "LARGEST_UNIT", 1)
    for engine, done in (("incremental", 4), ("reference", 14), ("incremental", 28)):
        stop_after(model, tmp_path / "run", engine, done)
    monkeypatch.undo()
    run(model, tmp_path / "run", resume=True, per_input=True)
    assert results(tmp_path / "run") == results(tmp_path / "whole")
    with pytest.raises(RunError, match="of weights alone"), reading(tmp_path / "run") as store:
        export_dialect(store, "dnn-benchmarks", tmp_path / "x.csv")


@pytest.mark.slow
@pytest.mark.parametrize("point", [4, 9, 14, 21])
def test_killed_at_a_write_it_resumes_to_the_same(point: int, model: Path, tmp_path: Path) -> None:
    """Ended as by kill -9 around a commit, a rename or a folder that is made, then run to its end."""
    chosen = [injection for injection in faults() if all((fault.input or 0) < 8 for fault in injection.faults)]
    write_fault_list(tmp_path / "f.csv", chosen)
    settings = Settings(first=8, batch_size=8)
    run(model, tmp_path / "whole", tmp_path / "f.csv", settings=settings)
    script = [sys.executable, str(Path(__file__).parents[1] / "kill_at.py")]
    arguments = [str(part) for part in (model, tmp_path / "f.csv", tmp_path / "run", point)]
    assert subprocess.run([*script, *arguments], capture_output=True, check=False).returncode == 9
    run(model, tmp_path / "run", tmp_path / "f.csv", settings=settings, resume=True)
    assert results(tmp_path / "run") == results(tmp_path / "whole")


def test_many_paths_run_as_one(model: Path, tmp_path: Path) -> None:
    """Injections of several sites each, in more combinations than are kept apart: one path, the same results."""
    draw = np.random.default_rng(2)
    layers = [*SHAPES]
    injections = []
    for number in range(14):
        chosen = [layers[i] for i in draw.choice(5, 2 + number % 3, replace=False)]
        places = [(layer, tuple(int(draw.integers(n)) for n in SHAPES[layer])) for layer in chosen]
        which = [int(draw.integers(INPUTS)) for _ in places] if number % 2 else [None] * len(places)
        own = [Fault(*place, 29, site=Site.OUTPUT, input=n) for place, n in zip(places, which, strict=True)]
        own += [Fault("fc", (1, number), 30)] if number % 5 == 0 else []
        injections.append(Injection(f"i{number}", tuple(own)))
    run(model, tmp_path / "joined", injections)
    with reading(tmp_path / "joined") as store:
        assert len(store.paths()) == 1
        assert store.failed_controls() == []
    run(model, tmp_path / "reference", injections, engine="reference")
    assert results(tmp_path / "joined") == results(tmp_path / "reference")
    for injection in injections[:4]:  # alone, each has a path of its own
        run(model, tmp_path / f"{injection.id}", [injection])
        (row, *_) = [row for row in rows(tmp_path / "joined") if row["Injection"] == injection.id]
        assert rows(tmp_path / f"{injection.id}")[0] == row


def test_runs_of_neurons_are_not_compared(model: Path, tmp_path: Path) -> None:
    for name, injection in zip("ab", faults(), strict=False):
        run(model, tmp_path / name, [injection])
    with pytest.raises(RunError, match="compare takes faults in stored parameters alone"):
        read_pair(tmp_path / "a", tmp_path / "b")


def test_which_paths_are_joined() -> None:
    wide = [(f"@output:{i}", "w") for i in range(9)]
    alone = [("@output:0",), ("w",)]
    assert join_paths([*wide[:8], *alone]) == {}
    union = (*sorted(f"@output:{i}" for i in range(9)), "w")
    assert join_paths([*wide, *alone]) == dict.fromkeys(wide, union)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(batch_size=BATCH, layout="blocked"), "`layout` blocked: neuron faults need `layout` plain"),
        (Settings(batch_size=BATCH, fusion="deployed"), "`fusion` deployed: neuron faults need .*`fusion` framework"),
    ],
)
def test_kernels_in_which_a_flip_node_is_not_alone(
    settings: Settings, message: str, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(BitswapError, match=message):
        run(model, tmp_path / "run", settings=settings)
    assert not (tmp_path / "run").exists()
    weights = [Injection("w", (Fault("fc", (0, 0), 30),))]
    run(model, tmp_path / "weights", weights, settings=settings)


def test_layout_auto_is_plain_for_neurons(model: Path, tmp_path: Path) -> None:
    run(model, tmp_path / "run", faults()[:2], settings=Settings(batch_size=BATCH))
    assert json.loads((tmp_path / "run/golden.json").read_text())["identity"]["numerics"]["layout"] == "plain"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('cnov,output,"(0, 0, 0)",3,0', r"f.csv:3: no layer 'cnov' .*; the nearest are conv"),
        ('conv,output,"(0, 0, 4)",3,0', r"f.csv:3: index \(0, 0, 4\) is outside the output of conv, whose shape is"),
        ('conv,output,"(0, 0, 0)",32,0', r"f.csv:3: bit 32 is outside float32 \(0-31\)"),
        (f'conv,output,"(0, 0, 0)",3,{INPUTS}', rf"f.csv:3: input {INPUTS} is outside the data, whose inputs are 0-21"),
    ],
)
def test_a_wrong_row_writes_nothing(row: str, message: str, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text(f'Injection,Layer,Site,Index,Bit,Input\na,conv,output,"(0, 0, 0)",3,0\nb,{row}\n')
    with pytest.raises(BitswapError, match=message):
        run(model, tmp_path / "run", path)
    assert not (tmp_path / "run").exists()
