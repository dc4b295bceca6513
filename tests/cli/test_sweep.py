"""``sweep`` on the command line: what it prints and writes, and the one line that wrong input gets."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.builders import cnn, normal, save
from tests.command_line import Run, runner


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``sweep cnn.onnx`` in a folder with that model and its data; return exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    save(cnn(), tmp_path / "cnn.onnx")
    np.savez("cnn.npz", x=normal(20, 1, 6, 6, seed=3), y=np.arange(20) % 4)

    return runner(monkeypatch, capsys, "sweep", "cnn.onnx")


def test_sweep_prints_a_row_per_rate(run: Run) -> None:
    options = ("--repeats", 3, "--seed", 2, "--workers", 1, "--audit", 1)
    code, out, err = run("--rates", "1e-9:1e-2", "--layers", "fc.weight", "--out", "here", *options)
    assert code == 0
    assert "cnn on cnn, 20 inputs: random flips among 6,144 bits; shares in % with their 95 % intervals" in out
    assert "written: here/cnn.csv, here/detail-cnn.csv" in out
    assert (
        "where all 3 are equal, 70.76 points to each side, since so many" in out
    )  # Clopper and Pearson: 1 - 0.025 ** (1 / 3)
    assert "bit errors among 6,144 bits: " in err
    assert err.count("data: all 20 inputs of cnn.npz") == 1
    with Path("here/cnn.csv").open() as file:
        golden, *rows = csv.DictReader(file)
    assert [float(row["rate"]) for row in rows] == [1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2]
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line]
    lines = {line[0]: line for line in cells}
    assert lines["0"][1:4] == ["0", "", f"{100 * float(golden['top_1_correct']):.2f}"]
    for row in rows:
        line = lines[f"{float(row['rate']):g}"]
        shown = [f"{100 * float(row[name]):.2f}" for name in ("critical", "critical_low", "critical_high")]
        assert line[2] == f"{row['repeats_with_flips']} of 3"
        assert line[5] == f"{shown[0]} [{shown[1]}, {shown[2]}]"
    before = Path("here/detail-cnn.csv").read_bytes()
    Path("here/detail-cnn.csv").unlink()
    code, _, _ = run("--rates", "1e-9:1e-2", "--layers", "fc.weight", "--out", "here", "--resume", *options)
    assert (code, Path("here/detail-cnn.csv").read_bytes()) == (0, before)


def test_without_labels_or_spread(run: Run) -> None:
    """One repeat has no interval; without labels, accuracy is agreement with the golden prediction."""
    np.savez("cnn.npz", x=normal(20, 1, 6, 6, seed=3))
    code, out, _ = run("--rates", "1e-9", "--repeats", 1, "--out", "here")
    assert code == 0
    assert "Top-1 as golden" in out
    assert "Top-5" not in out
    assert "100.00" in out
    assert "[" not in out
    assert "intervals: Student's" not in out


def test_default_run_directory(run: Run) -> None:
    code, out, _ = run("--rates", "1e-9", "--repeats", 2)
    (found,) = Path("reports/cnn/cnn").iterdir()
    assert (code, {path.name for path in found.iterdir()}) == (0, {"cnn.csv", "detail-cnn.csv"})
    assert f"written: {found}/cnn.csv" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rates", "1e-6:1e-9"), "error: --rates: expected LOW:HIGH with LOW below HIGH, found '1e-6:1e-9'"),
        (("--rates", "0:1"), "error: --rates: expected rates between 0 and 1, both excluded, found 0"),
        (
            ("--rates", "some"),
            "error: --rates: expected LOW:HIGH or numbers separated by commas, like 1e-10:1e-6, found 'some'",
        ),
        (
            ("--rates", "0.1", "--layers", "cov"),
            "error: cnn: no layer or parameter matches 'cov'; the nearest are conv, fc",
        ),
        (("--rates", "0.1", "--resume"), "error: --resume needs --out: the run directory to continue"),
        (("--rates", "0.1", "--memory", "much"), "error: --memory: expected a size like 500M or 4G, found 'much'"),
    ],
)
def test_wrong_input(run: Run, arguments: tuple[object, ...], message: str) -> None:
    before = sorted(Path.cwd().rglob("*"))
    assert run(*arguments) == (1, "", message + "\n")
    assert sorted(Path.cwd().rglob("*")) == before


def test_plot(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both figures appear with and without labels; a missing matplotlib is an error before anything runs."""
    pytest.importorskip("matplotlib")
    options = ("--rates", "1e-9,1e-3", "--repeats", 2, "--out", "here", "--workers", 1, "--plot")
    code, out, _ = run(*options)
    assert (code, Path("here/cnn.png").read_bytes()[:4]) == (0, b"\x89PNG")
    assert "written: here/cnn.csv, here/detail-cnn.csv, here/cnn.svg, here/cnn.png" in out
    drawn = Path("here/cnn.svg").read_text()
    assert all(word in drawn for word in (">top-1<", ">top-1, golden<", ">critical<", ">bit error rate<"))
    np.savez("cnn.npz", x=normal(20, 1, 6, 6, seed=3))
    assert run("--rates", "1e-9", "--repeats", 1, "--out", "there", "--plot")[0] == 0
    assert ">top-1 as golden<" in Path("there/cnn.svg").read_text()
    assert run("--rates", "1e-9", "--repeats", 1, "--out", "there", "--plot", "--resume")[0] == 0
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = "error: plots need matplotlib: pip install 'bitswap-onnx[report]'\n"
    assert run("--rates", "1e-9", "--out", "elsewhere", "--plot") == (1, "", message)
    assert not Path("elsewhere").exists()


def test_usage(run: Run) -> None:
    assert run()[0] == 2
    assert run("--rates", "0.1", "--repeats", 0)[0] == 2
    assert run("--rates", "0.1", "--site", "gates")[0] == 2
