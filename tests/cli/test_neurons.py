"""``neurons`` on the command line: output, files, and one line on stderr for wrong input."""

import csv
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.builders import cnn, normal, save
from tests.command_line import Run, runner


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``neurons cnn.onnx`` in a folder with that model and its data; return exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    save(cnn(), tmp_path / "cnn.onnx")
    np.savez("cnn.npz", x=normal(20, 1, 6, 6, seed=3), y=np.arange(20) % 4)

    return runner(monkeypatch, capsys, "neurons", "cnn.onnx")


def test_neurons_prints_a_row_per_layer(run: Run) -> None:
    options = ("--trials", 2, "--seed", 4, "--batch-size", 8, "--drop-last", "--detailed-log", "--workers", 1)
    code, out, err = run("--layer-num", "0,2", "--out", "here", *options)
    assert code == 0
    assert "neuron faults: 2 layers x 16 inputs x 2 trials = 64, seed 4" in err
    assert err.count("data: all 20 inputs of cnn.npz") == 1
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line]
    summary, results = cells[:2], cells[2:]
    assert summary == [
        ["0", "x", "Input", "-", "1x6x6", "float32", "36"],
        ["2", "fc", "Gemm", "4x48", "4", "float32", "4"],
    ]
    with Path("here/cnn_cnn_4.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [row["layer"] for row in written] == ["x", "fc", "all layers"]
    for row, line in zip(written, results, strict=True):
        share, low, high = (f"{100 * float(row[f'misclassified_{end}']):.2f}" for end in ("share", "low", "high"))
        hits = f"{row['misclassified']}/{row['correct_inferences']}"
        others = [f"{100 * float(row[f'{name}_share']):.2f}" for name in ("critical", "nonfinite")]
        assert line == [row["number"], row["layer"], f"{hits}: {share} [{low}, {high}]", *others]
    assert "critical: the prediction is not the golden one, of all 16 inputs, each 2 times" in out
    assert "written: here/cnn_cnn_4.txt, here/cnn_cnn_4.csv, here/cnn_cnn_4_detailed.txt" in out
    before = Path("here/cnn_cnn_4_detailed.txt").read_bytes()
    Path("here/cnn_cnn_4_detailed.txt").unlink()
    code, _, _ = run("--layer-num", "0,2", "--out", "here", "--resume", *options)
    assert (code, Path("here/cnn_cnn_4_detailed.txt").read_bytes()) == (0, before)


def test_default_run_directory(run: Run) -> None:
    code, out, _ = run("--layers", "fc", "--workers", 1)
    (found,) = Path("reports/cnn/cnn").iterdir()
    assert code == 0
    assert f"written: {found}/cnn_cnn_0.txt, {found}/cnn_cnn_0.csv\n" in out


def test_seed_from_the_clock(run: Run) -> None:
    code, out, err = run("--layers", "fc", "--seed", -1, "--out", "here", "--workers", 1)
    assert code == 0
    named = re.search(r"seed (\d+)", err)
    assert named is not None
    assert f"here/cnn_cnn_{named[1]}.txt" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--layer-num", "3"), "error: --layer-num: there is no layer 3; layers to choose from: 3, numbered 0-2"),
        (("--layer-num", "one"), "error: --layer-num: expected whole numbers like 0,2,4, found 'one'"),
        (("--layer-type", "Conf"), "error: --layer-type: no layer is of type 'Conf'; the nearest are Conv"),
        (("--layers", "cov"), "error: no layer matches 'cov'; the nearest are conv"),
        (
            ("--bit", "40"),
            "error: --bit 40 is outside float32 (0-31), the output format of x; choose another bit or other --layers",
        ),
        (("--drop-last", "--batch-size", "32"), "error: --drop-last: 20 inputs are fewer than one batch of 32"),
        (("--resume",), "error: --resume needs --out: the run directory to continue"),
        (("--memory", "much"), "error: --memory: expected a size like 500M or 4G, found 'much'"),
    ],
)
def test_wrong_input(run: Run, arguments: tuple[object, ...], message: str) -> None:
    before = sorted(Path.cwd().rglob("*"))
    code, out, err = run(*arguments)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(message)
    assert sorted(Path.cwd().rglob("*")) == before


def test_plot(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figure has a dot per layer; a missing matplotlib is an error before anything runs."""
    pytest.importorskip("matplotlib")
    code, out, _ = run("--out", "here", "--workers", 1, "--plot")
    assert (code, Path("here/cnn_cnn_0.png").read_bytes()[:4]) == (0, b"\x89PNG")
    assert "here/cnn_cnn_0.csv, here/cnn_cnn_0.svg, here/cnn_cnn_0.png" in out
    drawn = Path("here/cnn_cnn_0.svg").read_text()
    assert all(word in drawn for word in (">1  conv<", ">all layers<", ">misclassified, % of golden-correct inputs<"))
    np.savez("cnn.npz", x=normal(20, 1, 6, 6, seed=3))
    assert run("--out", "there", "--layers", "fc", "--workers", 1, "--plot")[0] == 0
    assert ">critical, % of inputs<" in Path("there/cnn_cnn_0.svg").read_text()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = "error: plots need matplotlib: pip install 'bitswap-onnx[report]'\n"
    assert run("--out", "elsewhere", "--plot") == (1, "", message)
    assert not Path("elsewhere").exists()


def test_usage(run: Run) -> None:
    assert run("--trials", 0)[0] == 2
    assert run("--bit", -1)[0] == 2
