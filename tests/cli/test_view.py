"""``--json`` and ``--quiet``: what stdout and stderr hold, and that documents have the keys of the files."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import Run, begin_folder, runner

#: Command line → the file that its JSON document repeats, and the key of the rows in the document.
COMMANDS = {
    "inject cnn.onnx faults.csv --workers 0": ("golden.json", "golden"),
    "inject cnn.onnx --until critical±40%@90% --workers 0": ("until.csv", "until"),
    "neurons cnn.onnx --workers 0": ("cnn_cnn_0.csv", "layers"),
    "sweep cnn.onnx --rates 1e-3 --repeats 2 --workers 0": ("cnn.csv", "rates"),
    "rank cnn.onnx --builtin index,oracle --workers 0": ("cnn_layers.csv", "layers"),
    "compare first second": ("compare.csv", "rows"),
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in a folder with a model, its data and a list."""
    monkeypatch.chdir(tmp_path)
    begin_folder(tmp_path)
    return runner(monkeypatch, capsys)


def cells(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Return rows as csv would write and read them."""
    return [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows]


def begin(command: str, run: Run) -> None:
    """Make the runs that the command reads."""
    if command.startswith("compare"):
        run("inject", "cnn.onnx", "faults.csv", "-o", "first", "--workers", 0)
        shutil.copytree("first", "second")


@pytest.mark.parametrize("command", COMMANDS)
def test_json(command: str, run: Run) -> None:
    """Stdout is one document, which holds what the command's file holds under the same names."""
    begin(command, run)
    code, out, err = run(*command.split(), "--json", "-o", "run")
    document = json.loads(out)
    assert code == 0
    assert document["run"] == "run"
    name, key = COMMANDS[command]
    path = next(Path("run").rglob(name))
    if name.endswith(".json"):
        assert document[key] == json.loads(path.read_text())
    else:
        with path.open(newline="") as file:
            assert cells(document[key]) == list(csv.DictReader(file))
    assert err or command.startswith("compare first")


def test_json_of_a_campaign_has_the_counts_of_its_results(run: Run) -> None:
    document = json.loads(run("inject", "cnn.onnx", "faults.csv", "--json", "-o", "run", "--workers", 0)[1])
    with Path("run/results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name in ("masked", "non_critical", "critical", "nonfinite", "top_1_correct"):
        assert document["totals"][name] == sum(int(row[name]) for row in rows)
    assert document["injections"] == len(rows)
    assert sum(row["injections"] for row in document["bit_classes"]) == len(rows)
    assert {row["injection"] for row in document["worst"]} <= {row["Injection"] for row in rows}


@pytest.mark.parametrize("command", COMMANDS)
def test_quiet(command: str, run: Run) -> None:
    """The run directory alone is printed; results are in the files."""
    begin(command, run)
    code, out, err = run(*command.split(), "-q", "-o", "run")
    assert (code, out, err) == (0, "run\n", "")
    assert next(Path("run").rglob(COMMANDS[command][0])).is_file()


def test_quiet_with_json_prints_the_document(run: Run) -> None:
    code, out, err = run("inject", "cnn.onnx", "faults.csv", "-q", "--json", "-o", "run", "--workers", 0)
    assert (code, err) == (0, "")
    assert json.loads(out)["run"] == "run"


def test_quiet_prints_errors(run: Run) -> None:
    code, out, err = run("inject", "gone.onnx", "faults.csv", "-q", "--json")
    assert (code, out) == (1, "")
    assert err == "error: gone.onnx: cannot read the model: No such file or directory\n"
