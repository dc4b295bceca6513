"""``compare`` and ``faults convert`` on the command line: output, files and errors."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from bitswap_onnx.stats.paired import FEWEST
from tests.builders import cnn, normal, save, single
from tests.command_line import Run, runner
from tests.keras_layout import as_keras, takes_nhwc

HEADER = "Injection,Layer,TensorIndex,Bit\n"
ROWS = "".join(f'c{bit},conv,"(2, 0, 2, 1)",{bit}\nf{bit},fc,"(1, 2)",{bit}\n' for bit in range(12, 32))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in a folder with a model, its data, its Keras-like double and a list."""
    monkeypatch.chdir(tmp_path)
    save(cnn(), tmp_path / "cnn.onnx")
    save(takes_nhwc(as_keras(cnn())), tmp_path / "keras.onnx")
    np.savez("cnn.npz", x=normal(20, 1, 6, 6, seed=3), y=np.arange(20) % 4)
    Path("faults.csv").write_text(HEADER + ROWS)

    return runner(monkeypatch, capsys)


def test_convert_there_and_back(run: Run) -> None:
    code, out, _ = run("faults", "convert", "faults.csv", "--from", "cnn.onnx", "--to", "keras.onnx", "-o", "keras.csv")
    assert (code, out) == (0, "written: keras.csv: 40 injections for keras\n")
    assert Path("keras.csv").read_text().splitlines()[:3] == [
        HEADER.strip(),
        'c12,conv2d,"(2, 1, 0, 2)",12',
        'f12,dense,"(2, 1)",12',
    ]
    run("faults", "convert", "keras.csv", "--from", "keras.onnx", "--to", "cnn.onnx", "-o", "back.csv")
    assert Path("back.csv").read_text() == HEADER + ROWS


def test_convert_wrong_input(run: Run) -> None:
    command = ("faults", "convert", "faults.csv", "--from", "cnn.onnx")
    save(cnn(seed=5), Path("other.onnx"))
    before = sorted(Path.cwd().iterdir())
    code, _, err = run(*command, "--to", "other.onnx", "-o", "out.csv")
    assert code == 1
    assert err == (
        "error: expected the same weights in other, found no partner of conv.weight (no parameter with its bits), "
        "fc.weight (no parameter with its bits); lists are carried over between models with the same weights alone\n"
    )
    code, _, err = run(*command, "--to", "keras.onnx", "-o", "faults.csv")
    assert (code, err) == (1, "error: faults.csv: would overwrite what it is made from; choose another output\n")
    Path("faults.csv").write_text(HEADER + '0,conv,"(9, 0, 0, 0)",3\n')
    code, _, err = run(*command, "--to", "keras.onnx", "-o", "out.csv")
    assert code == 1
    assert err.startswith("error: faults.csv:2: index (9, 0, 0, 0) is outside conv.weight")
    assert sorted(Path.cwd().iterdir()) == before


def test_convert_says_what_had_equal_choices(run: Run) -> None:
    """Two equal biases of zeros in layers that share nothing else are paired in graph order, with a note."""
    zeros = np.zeros(3, np.float32)
    save(single("a", x__bias=zeros, y__bias=zeros), Path("a.onnx"))
    save(single("b", p__bias=zeros, q__bias=zeros), Path("b.onnx"))
    Path("faults.csv").write_text("Injection,Layer,TensorIndex,Bit,Parameter\n0,y,(1),30,bias\n")
    code, out, _ = run("faults", "convert", "faults.csv", "--from", "a.onnx", "--to", "b.onnx", "-o", "out.csv")
    assert code == 0
    assert out.splitlines()[0] == "note: y.bias -> q.bias: 2 parameters hold these bits; paired in graph order"


def test_compare_models_then_their_runs(run: Run) -> None:
    models = ("compare", "--models", "cnn.onnx", "keras.onnx", "--faults", "faults.csv")
    code, out, err = run(*models, "--out", "both", "--workers", 1)
    assert code == 0
    for text in (
        "A: cnn, clean top-1 accuracy",
        "B: keras, clean top-1 accuracy",
        f"not shown: the faults show neither, or are fewer than {FEWEST}",
        "40 injections x 20 inputs; measures the graph effect",
        "all, finite",
        "equivalent",
        "Masked share in %",
        "checked: labels are equal in their order, by their hash",
        "note: whether the pixels are equal could not be checked",
        "written: both/compare.json, both/compare.csv",
    ):
        assert text in out
    assert "faults.csv converted for keras by content" in err
    assert "injections: 40/40" in err
    stored = json.loads(Path("both/compare.json").read_text())
    assert stored["judgement"]["delta"] == 0.1
    with Path("both/compare.csv").open() as file:
        layers = {(row["group"], row["partner"]) for row in csv.DictReader(file) if row["scope"] == "layer"}
    assert layers == {("conv", "conv2d"), ("fc", "dense")}

    code, out, _ = run("compare", "both/a", "both/b", "--delta", 2, "--theta", 0.05, "--seed", 3)
    assert code == 0
    assert "inside ±2 points" in out
    assert "Faults over 5 % critical in only one model; agreement of outcomes per input" in out
    assert "written: both/b/compare.json, both/b/compare.csv" in out
    assert json.loads(Path("both/b/compare.json").read_text())["judgement"]["seed"] == 3
    code, _, err = run(*models, "--out", "both")
    assert (code, err.splitlines()[-1]) == (
        1,
        "error: both: holds runs already; continue them with --resume or choose another --out",
    )
    code, out, _ = run(*models, "--out", "both", "--workers", 1, "--resume")
    assert code == 0
    code, _, err = run("inject", "cnn.onnx", "faults.csv", "--out", "both/b", "--resume")
    assert code == 1  # the comparison beside the run has not become part of it
    assert "another campaign" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("run_a",),
        ("run_a", "run_b", "--resume"),
        ("run_a", "run_b", "--faults", "faults.csv"),
        ("run_a", "run_b", "--preset", "cifar10"),
        ("--models", "cnn.onnx", "keras.onnx"),
        ("run_a", "--models", "cnn.onnx", "keras.onnx", "--faults", "faults.csv"),
    ],
)
def test_usage(run: Run, arguments: tuple[str, ...]) -> None:
    code, _, err = run("compare", *arguments)
    assert code == 2
    assert "--models" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", "b"), "error: a: expected a run directory with a campaign.sqlite, found none that has begun\n"),
        (("a", "b", "--delta", 0), "error: --delta: expected percentage points over 0, at most 100, found 0.0\n"),
        (("a", "b", "--theta", 1), "error: --theta: expected a share from 0 up to 1 (excluded), found 1.0\n"),
    ],
)
def test_wrong_input_gets_one_line(run: Run, arguments: tuple[object, ...], message: str) -> None:
    assert run("compare", *arguments)[::2] == (1, message)
