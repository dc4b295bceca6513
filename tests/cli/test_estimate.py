"""``estimate`` on the command line: output, files and errors."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.builders import cnn, normal, save
from tests.command_line import Run, runner

HEADER = "Injection,Layer,TensorIndex,Bit,n_injections,masked,non_critical,critical"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in a folder with results r.csv: 40 faults of two bits, those of bit 30 critical for half."""
    monkeypatch.chdir(tmp_path)
    rows = [f"{i},fc,({i}),{30 if i < 10 else 3},10,{0 if i < 10 else 10},5,{5 if i < 10 else 0}" for i in range(10)]
    rows += [f"{i},fc,({i}),3,10,10,0,0" for i in range(10, 40)]
    Path("r.csv").write_text("\n".join([HEADER, *rows]) + "\n")

    return runner(monkeypatch, capsys)


def test_tables(run: Run) -> None:
    code, out, err = run("estimate", "r.csv")
    assert (code, err) == (0, "")
    for text in (
        "r.csv: 40 injections; 400 inferences",
        "Network: means over faults, in %, with 95 % intervals",
        "By bit, in %: 95 % for all 2 rows together (Bonferroni)",
        "By bit class, in %: 95 % for all 2 rows together (Bonferroni)",
        "Share of faults whose critical share f reaches theta, in %: 95 % for all 9 theta together (Bonferroni)",
        "faults with any critical input",
        "note: no design of the list is known",
        "note: the file has no clean_bits: bit classes are those of float32",
    ):
        assert text in out, text
    assert "SDC-5" not in out  # the file does not have it, so no line explains it
    assert out.count("Estimates are conditional on the inputs run: ") == 1
    assert "inputs: not known from a file, conditional on the inputs\n" in out
    (critical,) = (line for line in out.splitlines() if "inferences critical" in line)
    assert "12.5 ± 3.5" in critical


def test_options(run: Run) -> None:
    code, out, _ = run(
        "estimate", "r.csv", "--by", "layer, layer-bit", "--level", 0.99, "--theta", 0.3, "--out", "o.csv"
    )
    assert code == 0
    assert "By layer, in %: 99 % for the row" in out
    assert "fc bit 30" in out
    assert "faults with f >= 30 %" in out
    assert "By bit," not in out
    assert out.splitlines()[-1] == "written: o.csv"
    with Path("o.csv").open() as file:
        assert {row["scope"] for row in csv.DictReader(file)} == {"network", "layer", "layer-bit", "curve"}


def test_json(run: Run) -> None:
    code, out, _ = run("estimate", "r.csv", "--json", "--by", "network")
    record = json.loads(out)
    assert code == 0
    assert record["notes"][-1].startswith("Estimates are conditional on the inputs run: ")
    assert {row["quantity"] for row in record["rates"]} == {"critical", "non_critical", "masked", "harmful_faults"}
    assert (record["design"], record["fit"]) == (None, None)


def test_the_intervals_of_a_census_hold_what_they_belong_to(run: Run) -> None:
    """All flips of a bit of a layer: the interval is the share itself, which three digits would not show."""
    save(cnn(), Path("cnn.onnx"))
    np.savez("cnn.npz", x=normal(7, 1, 6, 6, seed=3), y=np.arange(7) % 4)
    drawn = ("--scheme", "exhaustive", "--layers", "fc", "--bits", "30")
    assert run("faults", "generate", "cnn.onnx", "-o", "all.csv", *drawn)[0] == 0
    assert run("inject", "cnn.onnx", "all.csv", "--out", "run", "--workers", 1)[0] == 0
    code, out, _ = run("estimate", "run", "--by", "network")
    assert code == 0
    rows = re.findall(r"([-0-9.e]+) ± 0 +│ +([-0-9.e]+) to ([-0-9.e]+)", out)
    assert len(rows) > 12
    assert all(low == mean == high for mean, low, high in rows)
    assert any(len(mean) == 5 for mean, *_ in rows)  # 12.34
    rates = json.loads(run("estimate", "run", "--by", "network", "--json")[1])["rates"]
    assert all(row["low"] == row["mean"] == row["high"] for row in rates)


def test_too_few_faults_are_marked(run: Run) -> None:
    Path("few.csv").write_text(f"{HEADER}\na,fc,(0),30,10,0,5,5\nb,fc,(1),30,10,0,5,5\n")
    code, out, _ = run("estimate", "few.csv")
    assert code == 0
    assert "note: too few faults in some groups" in out
    assert "50 ±" not in out


def test_failures_in_time(run: Run) -> None:
    named = ("--fit-per-mbit", 1000, "--mbit", "1e6", "--residency", 1000, "--theta", 0.5)
    code, out, _ = run("estimate", "r.csv", *named, "--memory-bits", 3_600_000)
    assert code == 0
    assert "FIT: 900 failures per 1e9 hours (95 %: " in out
    assert "an upset with critical share >= 0.5; 1000 FIT per Mbit of 1,000,000 bits, 3,600,000 bits" in out
    assert "residency 1000 s: 1e-06 upsets in memory on average; harmful ones are there for 2.5e-07 of the time" in out
    code, _, err = run("estimate", "r.csv", *named)
    assert (code, err) == (
        1,
        "error: r.csv: the size of the memory is not known; give --memory-bits, all bits the list was drawn from\n",
    )
    code, _, err = run("estimate", "r.csv", *named[:4])
    assert (code, err) == (
        1,
        "error: a FIT figure needs --fit-per-mbit, --mbit, --residency, --theta; missing --residency, --theta\n",
    )


def test_wrong_input(run: Run) -> None:
    Path("list.csv").write_text("Injection,Layer,TensorIndex,Bit\na,fc,(0),3\n")
    for arguments, message in (
        (("list.csv",), "list.csv:1: expected results with the columns masked,non_critical,critical, missing masked"),
        (("none.csv",), "none.csv: expected a run directory or a results file, found nothing there"),
        (("r.csv", "--by", "row"), "--by: expected some of network,layer,bit,bit-class,layer-bit, found row"),
        (("r.csv", "--out", "r.csv"), "r.csv: would overwrite what it is made from; choose another output"),
        (("r.csv", "--nonfinite", "detected"), "r.csv: --nonfinite detected needs the counts nonfinite"),
        (("r.csv", "--design", "r.csv"), "r.csv: not the design of a fault list"),
        (("r.csv", "--over-inputs"), "r.csv: --over-inputs needs the outcome of every input, expected a run directory"),
    ):
        code, out, err = run("estimate", *arguments)
        assert (code, out) == (1, "")
        assert err.startswith(f"error: {message}")
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace('"size": ', '"size": 1'), "f.design.json: damaged: its strata do not add up"),
        (lambda text: text.replace("bitswap-onnx", "other"), "f.design.json: not the design of a fault list"),
        (
            lambda text: re.sub('"list_sha256": "....', '"list_sha256": "0123', text),
            "f.design.json: not the design of this",
        ),
    ],
)
def test_a_design_that_is_not_the_lists_is_said_and_left(run: Run, change: Callable[[str], str], message: str) -> None:
    save(cnn(), Path("cnn.onnx"))
    assert run("faults", "generate", "cnn.onnx", "-o", "f.csv", "--scheme", "per-target", "--number", 4)[0] == 0
    design = Path("f.design.json")
    design.write_text(change(design.read_text()))
    code, _, err = run("inject", "cnn.onnx", "f.csv", "--out", "run", "--workers", 1, "--data", "synthetic:4")
    assert code == 0
    assert message in err
    assert "the run does not keep it" in err
    for source in ("run", "run/results.csv"):
        code, out, _ = run("estimate", source, "--by", "network")
        assert code == 0
        assert "no design of the list is known" in out
        assert re.search(
            f"note: {re.escape(message)}.*; the run does not keep it, so estimate weighs all faults alike", out
        )
    assert run("faults", "generate", "cnn.onnx", "-o", "f.csv", "--scheme", "per-target", "--number", 4)[0] == 0
    assert (
        run("inject", "cnn.onnx", "f.csv", "--out", "run", "--workers", 1, "--data", "synthetic:4", "--resume")[0] == 0
    )
    code, out, _ = run("estimate", "run", "--by", "network")
    assert "8 injections, drawn from 7,008; strata: 2;" in out


def test_a_results_file_has_the_design_of_its_run_while_its_faults_are_the_runs(run: Run) -> None:
    save(cnn(), Path("cnn.onnx"))
    np.savez("cnn.npz", x=normal(6, 1, 6, 6, seed=3), y=np.arange(6) % 4)
    assert run("faults", "generate", "cnn.onnx", "-o", "f.csv", "--scheme", "per-target", "--number", 4)[0] == 0
    assert run("inject", "cnn.onnx", "f.csv", "--out", "run", "--workers", 1)[0] == 0
    network = ("--by", "network", "--json")
    of_run, of_file = (json.loads(run("estimate", source, *network)[1]) for source in ("run", "run/results.csv"))
    assert of_file["design"] == of_run["design"] is not None
    quantities = {row["quantity"]: row for row in of_run["rates"]}
    assert all(row == quantities[row["quantity"]] for row in of_file["rates"])
    lines = Path("run/results.csv").read_text().splitlines()
    Path("run/results.csv").write_text("\n".join(lines[:-1]) + "\n")
    code, out, _ = run("estimate", "run/results.csv", "--by", "network")
    assert code == 0
    assert "7 injections; 42 inferences" in out
    assert "note: run/results.csv: its faults are no longer those that the design of run is of, by their hash" in out
    assert "note: no design of the list is known" in out


@pytest.mark.parametrize(
    ("command", "table"),
    [
        (("neurons", "cnn.onnx"), "cnn_cnn_*.csv"),
        (("sweep", "cnn.onnx", "--rates", "1e-2", "--repeats", 2), "cnn.csv"),
        (("rank", "cnn.onnx", "--builtin", "none"), "cnn_layers.csv"),
    ],
)
def test_runs_without_a_sample_of_faults(run: Run, command: tuple[object, ...], table: str) -> None:
    """An injection of such a run is no fault of a population: one line says where its shares are."""
    save(cnn(), Path("cnn.onnx"))
    np.savez("cnn.npz", x=normal(6, 1, 6, 6, seed=3), y=np.arange(6) % 4)
    assert run(*command, "--out", "run", "--workers", 1, "--seed", 3)[0] == 0
    assert len(list(Path("run").glob(table))) == 1
    assert json.loads(Path("run/golden.json").read_text())["fault_list"] == f"drawn by {command[0]}, seed 3"
    for source in ("run", "run/results.csv"):
        code, out, err = run("estimate", source)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert err.startswith(f"error: run: a run of {command[0]}, of which there are no rates per fault: ")
        assert f"are in {table} there, and {command[0]} with --resume prints them again" in err


def test_the_design_of_a_list_from_another_model_is_not_kept(run: Run) -> None:
    """Its strata would have other sizes."""
    save(cnn(), Path("cnn.onnx"))
    assert run("faults", "generate", "cnn.onnx", "-o", "f.csv", "--layers", "conv", "--margin", 0.2)[0] == 0
    proto = cnn()
    (kernel,) = (tensor for tensor in proto.graph.initializer if tensor.name == "conv.weight")
    kernel.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(kernel).astype(np.float32), "conv.other"))
    for node in proto.graph.node:
        node.input[:] = ["conv.other" if name == "conv.weight" else name for name in node.input]
    save(proto, Path("other.onnx"))
    code, _, err = run("inject", "other.onnx", "f.csv", "--out", "run", "--workers", 1, "--data", "synthetic:4")
    assert code == 0
    assert "f.design.json: drawn from a model that has other parameters; the run does not keep it" in err


def test_from_a_drawn_list_to_its_rates(run: Run) -> None:
    save(cnn(), Path("cnn.onnx"))
    np.savez("cnn.npz", x=normal(10, 1, 6, 6, seed=3), y=np.arange(10) % 4)
    assert run("faults", "generate", "cnn.onnx", "-o", "f.csv", "--margin", 0.1)[0] == 0
    assert run("inject", "cnn.onnx", "f.csv", "--out", "run", "--workers", 1)[0] == 0
    for path in ("run/campaign.sqlite", "run/results.csv", "f.design.json"):
        code, _, err = run("estimate", "run", "--out", path, "--design", "f.design.json")
        assert (code, err) == (1, f"error: {path}: would overwrite what it is made from; choose another output\n")
    Path("f.design.json").unlink()  # the run was begun with it
    code, out, _ = run("estimate", "run", "--nonfinite", "detected")
    assert code == 0
    assert "injections, drawn from 7,008; strata: 1; " in out
    assert "inferences critical, NaN/Inf counted as detected" in out
    assert "accuracy lost" in out
    assert "(critical, NaN/Inf counted as detected), in %" in out
    assert "no design" not in out


def test_inputs_that_are_a_sample_too(run: Run) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra [parquet]")
    save(cnn(), Path("cnn.onnx"))
    np.savez("cnn.npz", x=normal(20, 1, 6, 6, seed=3), y=np.arange(20) % 4)
    assert run("faults", "generate", "cnn.onnx", "-o", "f.csv", "--margin", 0.2)[0] == 0
    assert run("inject", "cnn.onnx", "f.csv", "--out", "run", "--workers", 1, "--per-input")[0] == 0
    code, out, _ = run("estimate", "run", "--over-inputs", "--by", "layer", "--level", 0.9)
    assert code == 0
    for text in (
        "By layer, in %: 90 % for all 2 rows together",
        "accuracy lost",
        "inputs are a sample too: SE: two-way random effects",
        "note: inputs are a sample: ",
        "inputs: two-way: faults and inputs sampled\nEstimates are over all inputs that those run were drawn from",
    ):
        assert text in out, text
    for text in ("any critical input", "SDC-5", "conditional on the inputs"):
        assert text not in out, text
    code, out, _ = run("estimate", "run", "--over-inputs", "--json")
    record = json.loads(out)
    assert (record["input_design"], record["curve"]) == ("two-way: faults and inputs sampled", [])
    assert (
        run(
            "inject",
            "cnn.onnx",
            "f.csv",
            "--out",
            "own",
            "--workers",
            1,
            "--inputs-per-injection",
            "5",
            "--batch-size",
            5,
        )[0]
        == 0
    )
    code, out, _ = run("estimate", "own")
    assert code == 0
    assert "inputs: nested: 5 inputs of its own per fault\n" in out


def test_the_same_coverage_everywhere(run: Run, tmp_path: Path) -> None:
    """Weights are 219 of the 238 stored elements: in the design's list, in its run and estimate, and in a drawn run."""
    save(cnn(), tmp_path / "m.onnx")
    np.savez(tmp_path / "m.npz", x=normal(8, 1, 6, 6), y=np.arange(8) % 4)
    weights = "population: 92.02 % of the 7,616 bits that the model stores; left out: bias float32 2.94 %"
    assert (
        "--parameters, --layers and --bits of faults generate"
        in run("faults", "generate", "m.onnx", "--number", 5, "-o", "l.csv")[1]
    )
    assert weights in run("inject", "m.onnx", "l.csv", "--out", "listed", "--workers", 0)[1]
    goal = ("--until", "critical±20%@90%")
    assert weights in run("inject", "m.onnx", *goal, "--out", "drawn", "--workers", 0)[1]
    for source in ("listed", "drawn", "listed/results.csv"):
        options = ["--design", "l.design.json"] if source.endswith(".csv") else []
        assert weights in run("estimate", source, *options)[1]
    Path("l.design.json").unlink()
    hits = "tensors that the list hits, since no design says what it was drawn from: "
    assert hits in run("inject", "m.onnx", "l.csv", "--out", "alone", "--workers", 0)[1]
    for folder in ("listed", "drawn", "alone"):
        covered = json.loads(Path(folder, "golden.json").read_text())["coverage"]
        assert covered["stored"] == 238 * 32
        assert covered["covered"] in ((219 * 32,) if folder != "alone" else (27 * 32, 192 * 32, 219 * 32))
        assert {entry["role"] for entry in covered["left_out"]} >= {"bias", "bn_scale", "bn_bias", "bn_mean", "bn_var"}


def test_coverage_follows_from_a_design_that_does_not_state_it_or_comes_later(run: Run, tmp_path: Path) -> None:
    save(cnn(), tmp_path / "m.onnx")
    np.savez(tmp_path / "m.npz", x=normal(8, 1, 6, 6), y=np.arange(8) % 4)
    run("faults", "generate", "m.onnx", "--number", 5, "-o", "l.csv")
    design = json.loads(Path("l.design.json").read_text())
    del design["coverage"]
    inject = ("inject", "m.onnx", "l.csv", "--workers", 0, "--out")
    Path("l.design.json").unlink()
    assert "tensors that the list hits" in run(*inject, "later")[1]
    Path("l.design.json").write_text(json.dumps(design))
    for folder, option in (("old", ()), ("later", ("--resume",))):
        assert "population: 92.02 % of the 7,616 bits" in run(*inject, folder, *option)[1]
        assert json.loads(Path(folder, "golden.json").read_text())["coverage"]["of"] == "population"


def test_figures_lie_beside_the_results_or_the_table(tmp_path: Path, run: Run) -> None:
    pytest.importorskip("matplotlib")
    code, out, err = run("estimate", "r.csv", "--by", "network,layer", "--plot")
    assert code == 0, err
    assert out.endswith("written: r_estimate.svg, r_estimate.png\n")
    assert run("estimate", "r.csv", "--plot", "--out", "rates.csv")[1].endswith("rates.csv, rates.svg, rates.png\n")
    assert (tmp_path / "r_estimate.svg").is_file()
    assert (tmp_path / "rates.svg").is_file()
