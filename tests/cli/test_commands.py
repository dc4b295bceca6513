"""Commands are loaded when they are chosen: the help knows them all, and no command loads the libraries of another."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bitswap_onnx.cli.commands import COMMANDS, load_command
from tests.builders import cnn, normal, save
from tests.command_line import runner

#: Runs a command line, then prints which of the libraries named first have been loaded.
LOADED = """
import sys
from bitswap_onnx.__main__ import main
libraries, sys.argv = sys.argv[1].split(","), ["bitswap-onnx", *sys.argv[2:]]
try:
    main()
except SystemExit as ended:
    print("exit code:", ended.code or 0)
print("loaded:", *sorted(library for library in libraries if library in sys.modules))
"""

#: Runs a command line, then prints of each worker whether onnx had been loaded when it started.
STARTED = """
import sys
from bitswap_onnx.__main__ import main
from bitswap_onnx.runtime import processes
start, late, sys.argv = processes.start_worker, [], ["bitswap-onnx", *sys.argv[1:]]
def start_worker():
    late.append("onnx" in sys.modules)
    return start()
processes.start_worker = start_worker
try:
    main()
except SystemExit:
    print(late)
"""

#: Libraries that no command of the core loads unless it computes with them.
NEEDLESS = ("scipy", "scipy.stats", "sympy", "onnx_ir", "torch", "tensorflow", "keras", "matplotlib", "pyarrow", "PIL")
HEAVY = ("numpy", "onnx", "onnxruntime", "sqlite3", *NEEDLESS)

#: Imports the module of every command, then prints which of the libraries named first have been loaded.
IMPORTED = """
import sys
from bitswap_onnx.cli.commands import COMMANDS, load_command
print("commands:", *map(load_command, COMMANDS))
print("loaded:", *sorted(library for library in sys.argv[1].split(",") if library in sys.modules))
"""


def last_lines(code: str, *arguments: object) -> list[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()[-2:]


def loaded(libraries: tuple[str, ...], *arguments: object, code: int = 0) -> str:
    ended, last = last_lines(LOADED, ",".join(libraries), *arguments)
    assert ended == f"exit code: {code}"
    return last.removeprefix("loaded:").strip()


@pytest.fixture
def inject(tmp_path: Path) -> tuple[object, ...]:
    """The arguments of a small campaign in ``tmp_path / "run"``, without the number of workers."""
    save(cnn(), tmp_path / "cnn.onnx")
    np.savez(tmp_path / "cnn.npz", x=normal(20, 1, 6, 6, seed=3), y=np.arange(20) % 4)
    (tmp_path / "faults.csv").write_text('Injection,Layer,TensorIndex,Bit\n0,conv,"(0, 0, 0, 0)",30\n')
    return "inject", tmp_path / "cnn.onnx", tmp_path / "faults.csv", "--out", tmp_path / "run", "--workers"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_lines_are_the_commands_own(name: str) -> None:
    assert " ".join(load_command(name).help.split("\n\n")[0].split()) == COMMANDS[name]


def test_the_help_lists_every_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = runner(monkeypatch, capsys)("--help")
    assert code == 0
    for name, line in COMMANDS.items():
        assert f" {name} " in out
        assert line in out


def test_a_command_that_does_not_exist(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = runner(monkeypatch, capsys)("injekt")
    assert code == 2
    assert "No such command 'injekt'. Did you mean 'inject', 'inspect'?" in err


@pytest.mark.parametrize("arguments", ["--help", "--version", "inject --help", "faults generate --help", "rank --help"])
def test_the_help_loads_no_library(arguments: str) -> None:
    assert loaded(("pydantic", *HEAVY), *arguments.split()) == ""


def test_no_command_loads_a_library_before_it_runs() -> None:
    assert last_lines(IMPORTED, ",".join(HEAVY))[-1] == "loaded:"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("inject", 2),
        ("inject m.onnx --fusion none", 2),
        ("inject gone.onnx f.csv", 1),
        ("faults validate gone.csv", 1),
        ("estimate --resume", 2),
    ],
)
def test_no_wrong_usage_loads_a_library(arguments: str, code: int) -> None:
    assert loaded(HEAVY, *arguments.split(), code=code) == ""


def test_a_worker_loads_no_needless_library() -> None:
    code = "import sys, bitswap_onnx.runtime.worker; print(*sys.modules)"
    modules = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not {*NEEDLESS, "sqlite3", "rich", "typer", "bitswap_onnx.data.dataset"} & {*modules}


def test_a_campaign_loads_no_needless_library(inject: tuple[object, ...], tmp_path: Path) -> None:
    rooms = ("converters", "estimates", "experiments", "report", "stats")
    assert loaded((*NEEDLESS, *(f"bitswap_onnx.{room}" for room in rooms)), *inject, 0) == ""
    assert loaded(("matplotlib", "pyarrow", "scipy.stats"), "estimate", tmp_path / "run") == ""


def test_workers_start_before_the_parent_loads_its_libraries(inject: tuple[object, ...]) -> None:
    assert last_lines(STARTED, *inject, 2)[-1] == "[False, False]"
    assert last_lines(STARTED, *inject, 2, "--resume")[-1] == "[]"
