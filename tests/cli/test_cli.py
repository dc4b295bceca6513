"""The command line: output and files of each command."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from bitswap_onnx.faults.fault_list import read_fault_list
from bitswap_onnx.graph.model import load_model
from bitswap_onnx.runtime.model_lanes import WholeLane
from tests.builders import build, normal, save
from tests.command_line import HEADER, ROWS, Run, begin_folder, everything, runner


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in a folder with a model, its data and a list; return exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    begin_folder(tmp_path)
    return runner(monkeypatch, capsys)


def test_inject_prints_totals_and_where_everything_lies(run: Run) -> None:
    code, out, err = run("inject", "cnn.onnx", "faults.csv", "--out", "here", "--workers", 1)
    assert code == 0
    assert "cnn on cnn: 3 injections x 20 inputs = 60 inferences" in out
    for word in ("sign", "exponent", "mantissa", "Worst injections", "run directory: here"):
        assert word in out
    assert "data: all 20 inputs of cnn.npz" in err
    assert "injections: 3/3" in err
    assert "lanes of the faulty layers and parameters: 2 as whole models" in out
    assert "; audit: 3 injections ran again as whole models, all equal" in out
    assert re.search(
        r"time of all workers together: [0-9.]+ s: (faults|start|loading sessions) [0-9]+ %, .*audit [0-9]+ %", out
    )
    assert Path("here/results.csv").is_file()


@pytest.mark.parametrize(
    "data",
    [["--data", "synthetic:5"], ["--data", "synthetic", "--first", 5], ["--data", "synthetic:9", "--limit", 5]],
)
def test_noise_is_given_to_who_asks_for_it(run: Run, data: list[object]) -> None:
    code, out, err = run("inject", "cnn.onnx", "faults.csv", "--out", "here", "--workers", 1, *data)
    assert code == 0
    assert "5 synthetic inputs, standard normal with seed 0" in err
    assert "no labels" in err
    assert "cnn on synthetic: 3 injections x 5 inputs = 15 inferences; clean top-1 accuracy unknown" in out
    assert "synthetic" in json.loads(Path("here/golden.json").read_text())["data"]


def test_warnings_of_wrong_data_are_printed(run: Run) -> None:
    np.savez("cnn.npz", x=normal(60, 1, 6, 6, seed=3), y=np.arange(60) % 4)
    expected = "which guessing among 4 classes may give too; check the order of the labels"
    code, out, _ = run("evaluate", "cnn.onnx")
    assert code == 0
    assert expected in out
    (warning,) = json.loads(run("evaluate", "cnn.onnx", "--json")[1])["warnings"]
    assert warning.startswith("warning: the clean model is right for ")
    assert warning in run("inject", "cnn.onnx", "faults.csv", "--out", "run", "--workers", 1)[2]
    assert f"note: {warning}" in run("estimate", "run")[1]


def test_inject_again(run: Run) -> None:
    run("inject", "cnn.onnx", "faults.csv", "--out", "here", "--workers", 1)
    expected = Path("here/results.csv").read_bytes()
    before = everything(Path("here"))
    code, _, err = run("inject", "cnn.onnx", "faults.csv", "--out", "here")
    assert (code, err.splitlines()[-1]) == (
        1,
        "error: here: holds a campaign already; continue it with --resume or choose another --out",
    )
    assert everything(Path("here")) == before
    Path("here/results.csv").unlink()
    assert run("inject", "cnn.onnx", "faults.csv", "--out", "here", "--resume")[0] == 0
    assert Path("here/results.csv").read_bytes() == expected


def test_bit_order(run: Run) -> None:
    Path("msb.csv").write_text(HEADER + '0,conv,"(0, 0, 0, 0)",1\n1,fc,"(1, 2)",28\n2,fc,"(2, 2)",0\n')
    run("inject", "cnn.onnx", "faults.csv", "--out", "lsb", "--workers", 1)
    run("inject", "cnn.onnx", "msb.csv", "--out", "msb", "--bit-order", "msb", "--workers", 1)
    assert Path("lsb/results.csv").read_bytes() == Path("msb/results.csv").read_bytes()


def test_evaluate(run: Run) -> None:
    code, out, _ = run("evaluate", "cnn.onnx", "--json", "-o", "scores.npy")
    result = json.loads(out)
    labels = np.arange(20) % 4
    scores = np.load("scores.npy")
    assert (code, scores.shape) == (0, (20, 4))
    assert result["top_1_correct"] == int(np.sum(scores.argmax(axis=1) == labels))
    assert result["top_5_correct"] == 20
    _, text, _ = run("evaluate", "cnn.onnx")
    assert f"top-1: {result['top_1_correct']} of 20" in text


def test_inspect(run: Run) -> None:
    code, out, _ = run("inspect", "cnn.onnx", "--json")
    targets = json.loads(out)["targets"]
    assert code == 0
    assert [(target["layer"], target["role"]) for target in targets][:3] == [
        ("conv", "weight"),
        ("conv", "bias"),
        ("bn", "bn_scale"),
    ]
    assert targets[0] | {"users": []} == {
        "layer": "conv",
        "parameter": "weight",
        "role": "weight",
        "shape": [3, 1, 3, 3],
        "dtype": "float32",
        "bits": 27 * 32,
        "tensor": "conv.weight",
        "users": [],
        "aliases": [],
    }
    _, text, _ = run("inspect", "cnn.onnx", "--layers", "fc")
    assert "2 targets, 6,272 bits" in text


def test_names_are_printed_as_they_are(run: Run) -> None:
    """Square brackets are markup for the library that draws the tables."""
    proto = build("net (float[N, 2] x) => (float[N, 2] y) { y = MatMul (x, W) }", W=normal(2, 2))
    proto.graph.node[0].name = "enc[/attn]/:smile:"
    save(proto, Path("cnn.onnx"))
    assert "enc[/attn]/:smile:" in run("inspect", "cnn.onnx")[1]
    Path("faults.csv").write_text(HEADER + '0,enc[/attn]/:smile:,"(0, 0)",30\n')
    Path("cnn.npz").unlink()
    code, out, _ = run("inject", "cnn.onnx", "faults.csv", "--data", "synthetic:4", "--out", "runs/[/x]/a")
    assert code == 0
    assert "run directory: runs/[/x]/a" in out


def test_rewrite(run: Run) -> None:
    code, out, _ = run("rewrite", "cnn.onnx", "faults.csv", "--injection", "2", "-o", "faulty.onnx")
    clean, faulty = load_model("cnn.onnx"), load_model("faulty.onnx")
    onnx.checker.check_model("faulty.onnx", full_check=True)
    assert code == 0
    assert faulty.tensor("fc.weight")[2, 2] == -clean.tensor("fc.weight")[2, 2]
    differing = [
        key
        for key in ("conv.weight", "conv.bias", "bn.weight", "bn.running_var", "fc.weight", "fc.bias")
        if clean.tensor(key).tobytes() != faulty.tensor(key).tobytes()
    ]
    assert differing == ["fc.weight"]
    assert "fc.weight[2, 2]: 0x" in out


def test_describe_and_validate(run: Run) -> None:
    Path("twice.csv").write_text(
        HEADER + ROWS + ROWS.replace("0,conv", "10,conv").replace("1,fc", "11,fc").replace("2,fc", "12,fc")
    )
    code, out, _ = run("faults", "describe", "twice.csv", "--model", "cnn.onnx", "--json")
    description = json.loads(out)
    assert code == 0
    assert (description["injections"], description["faults"], description["duplicates"]) == (6, 6, 3)
    assert description["layers"][1] == {"layer": "fc", "parameter": "weight", "faults": 4, "distinct": 2, "bits": 6144}
    assert description["bits"] == [{"kind": "flip", "bit": bit, "faults": 2} for bit in (3, 30, 31)]
    assert "3 of them repeat" in run("faults", "describe", "twice.csv")[1]
    assert run("faults", "validate", "faults.csv")[1] == "faults.csv: 3 injections, all valid\n"
    assert "all valid in cnn.onnx" in run("faults", "validate", "faults.csv", "--model", "cnn.onnx")[1]


def test_results_export(run: Run) -> None:
    run("inject", "cnn.onnx", "faults.csv", "--out", "here", "--workers", 1)
    store = Path("here/campaign.sqlite").read_bytes()
    code, _, err = run("results", "export", "here", "--dialect", "tf_injector", "-o", "here/campaign.sqlite")
    assert (code, Path("here/campaign.sqlite").read_bytes()) == (1, store)
    assert "would overwrite what it is made from" in err
    assert run("results", "export", "here", "--dialect", "tf_injector")[0] == 0
    with Path("here/results.tf_injector.csv").open() as file:
        golden, *rows = csv.DictReader(file)
    with Path("here/results.csv").open() as file:
        ours = list(csv.DictReader(file))
    assert (golden["inj_id"], golden["n_injections"]) == ("GOLDEN", "20")
    assert [row["layer_weigths"] for row in rows] == ["(0, 0, 0, 0)", "(1, 2)", "(2, 2)"]
    assert [row["critical"] for row in rows] == [row["critical"] for row in ours]
    assert run("results", "export", "here", "--dialect", "dnn-benchmarks", "-o", "published.csv")[0] == 0
    assert Path("published.csv").read_text().splitlines()[0] == (
        "Injection,Layer,TensorIndex,Bit,n_injections,masked,non_critical,critical"
    )
    for path in ("here/results.tf_injector.csv", "published.csv"):
        assert list(read_fault_list(path)) == list(read_fault_list("faults.csv"))


def test_results_export_says_what_it_leaves_out(run: Run) -> None:
    rows = ('0,fc,"(1, 2)",30,,', "1,fc,(2),3,bias,", '2,fc,"(2, 2)",9,,stuck_at_1')
    Path("mixed.csv").write_text("\n".join(("Injection,Layer,TensorIndex,Bit,Parameter,Kind", *rows)))
    run("inject", "cnn.onnx", "mixed.csv", "--out", "here", "--workers", 1)
    code, out, _ = run("results", "export", "here", "--dialect", "tf_injector", "--out", "there")
    (table,) = Path("there").rglob("*.csv")
    assert (code, table.parent.name, table.name[:4]) == (0, "cnn", f"{table.parent.parent.name}_"[:4])
    assert [fault.id for fault in read_fault_list(table)] == ["0"]
    assert "left out, since tf_injector holds single flips of weights alone: 2 injections: 1 with" in " ".join(
        out.split()
    )
    Path("folder.csv").mkdir()
    assert run("results", "export", "here", "--dialect", "tf_injector", "-o", "folder.csv")[0] == 0
    assert [path.name for path in Path("folder.csv").rglob("*.csv")] == [table.name]


def test_a_control_that_fails_exits_with_3(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WholeLane, "control", lambda self, block: 0)
    code, _, err = run("inject", "cnn.onnx", "faults.csv", "--out", "run", "--workers", 0)
    assert code == 3
    assert err.splitlines()[-1].startswith("error: null control failed")
    assert not Path("run/results.csv").exists()


@pytest.mark.parametrize("command", [[sys.executable, "-m", "bitswap_onnx"], ["bitswap-onnx"]])
def test_both_ways_to_call_it(command: list[str]) -> None:
    program = [str(Path(sys.executable).parent / command[0])] if len(command) == 1 else command
    version = subprocess.check_output([*program, "--version"], text=True)
    assert version.strip() == "0.1.0"
    assert subprocess.run([*program, "inspect", "nothing.onnx"], capture_output=True, check=False).returncode == 1
