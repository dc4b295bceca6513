"""``inject --inputs-per-injection`` and ``--until``: output, files and errors."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.builders import cnn, normal, save
from tests.command_line import Run, runner


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)
    save(cnn(), tmp_path / "cnn.onnx")
    np.savez("cnn.npz", x=normal(20, 1, 6, 6, seed=3), y=np.arange(20) % 4)
    listed = [f'{bit},conv,"(0, 0, 0, {bit % 3})",{bit}' for bit in range(12)]
    Path("faults.csv").write_text("\n".join(["Injection,Layer,TensorIndex,Bit", *listed]))
    return runner(monkeypatch, capsys, "inject", "cnn.onnx", "faults.csv", "--workers", "1", "--out", "here")


def test_every_injection_has_inputs_of_its_own(run: Run) -> None:
    code, out, err = run("--inputs-per-injection", "auto", "--batch-size", 8, "--seed", 4)
    assert code == 0
    assert "inputs: each injection runs over 8 inputs of its own, drawn with seed 4 (nested)" in err
    with Path("here/results.csv").open(newline="") as file:
        inputs = [int(row["n_injections"]) for row in csv.DictReader(file)]
    assert set(inputs) == {8, 4}
    assert f"12 injections over some of 20 inputs = {sum(inputs)} inferences" in out
    assert json.loads(Path("here/golden.json").read_text())["input_design"] == "nested"
    assert run("--inputs-per-injection", 5, "--batch-size", 8, "--seed", 4, "--resume")[0] == 0
    code, _, err = run("--batch-size", 8, "--seed", 4, "--resume")
    assert (code, "with other --inputs-per-injection or its --seed; choose another --out" in err) == (1, True)


@pytest.mark.parametrize("found", ["0", "all", "-4", "2.5"])
def test_a_wrong_number_gets_one_line(run: Run, found: str) -> None:
    code, _, err = run("--inputs-per-injection", found)
    expected = f"error: --inputs-per-injection: expected auto or a number of inputs from 1 on, found '{found}'\n"
    assert (code, err) == (1, expected)
    assert not Path("here").exists()


@pytest.fixture
def draw(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys, "inject", "cnn.onnx", "--workers", "1", "--out", "here")


def test_faults_are_drawn_until_a_share_is_known(draw: Run) -> None:
    code, out, err = draw("--until", "critical+-6%@90%", "--bits", "exponent", "--inputs-per-injection", "auto")
    assert code == 0
    assert "round 1: " in err
    first, *others = out.splitlines()
    assert re.match(
        r"critical: [0-9.]+ % of inferences, between [0-9.]+ and [0-9.]+ % \(half width [0-9.]+\), over", first
    )
    assert first.endswith("90 % confidence, valid after every round")
    (title,) = (line for line in others if line.startswith("The sample: outcomes"))
    assert "strata drawn more often than others weigh more here" in title
    with Path("here/until.csv").open(newline="") as file:
        *_, last = csv.DictReader(file)
    assert float(last["high"]) - float(last["low"]) <= 0.12
    assert last["goal"] == "critical±6%@90%"
    assert f"from {int(last['injections']):,} injections, {int(last['inferences']):,} inferences" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--until", "critical"], "--until: expected a share, its margin and the confidence (both above 0"),
        (["--until", "sdc±1%@99%"], "--until: expected one of critical, critical_or_nonfinite, "),
        (["--until", "critical±1%@99%", "--bit-order", "msb"], "--bit-order msb: expected lsb with --until"),
        (["--until", "critical±1%@99%", "--layers", "nowhere"], "nowhere"),
        (["--until", "critical±1%@99%", "--kinds", "blink"], "--kinds: expected some of stuck_at, "),
        (
            ["--until", "critical±1%@99%", "--kinds", "stuck_at,stuck_at_0"],
            "--kinds: expected some of flip, stuck_at_0, stuck_at_1, each once, found stuck_at_0,stuck_at_1,stuck_at_0",
        ),
        (
            ["faults.csv", "--layers", "conv", "--scheme", "iterative"],
            "--scheme, --layers: only for faults that --until draws",
        ),
    ],
)
def test_what_cannot_be_drawn_gets_one_line(draw: Run, options: list[str], message: str) -> None:
    code, out, err = draw(*options)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert message in err
    assert not Path("here").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "expected a fault list (FAULTS), or a goal like --until 'critical±0.1%@99%'"),
        (
            ["faults.csv", "--until", "critical±1%@99%"],
            "--until draws its own faults: leave out faults.csv, or --until",
        ),
    ],
)
def test_a_list_or_a_goal(draw: Run, options: list[str], message: str) -> None:
    code, _, err = draw(*options)
    assert code == 2
    assert message in err
