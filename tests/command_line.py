"""The command line, run within a test."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bitswap_onnx.cli.main import main
from tests.builders import cnn, normal, save

Run = Callable[..., tuple[int, str, str]]

HEADER = "Injection,Layer,TensorIndex,Bit\n"
ROWS = '0,conv,"(0, 0, 0, 0)",30\n1,fc,"(1, 2)",3\n2,fc,"(2, 2)",31\n'


def begin_folder(folder: Path) -> None:
    """Write cnn.onnx, its data cnn.npz and the list faults.csv."""
    save(cnn(), folder / "cnn.onnx")
    np.savez(folder / "cnn.npz", x=normal(20, 1, 6, 6, seed=3), y=np.arange(20) % 4)
    (folder / "faults.csv").write_text(HEADER + ROWS)


def everything(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder, by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def runner(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *before: str) -> Run:
    """Return what runs ``bitswap-onnx`` with the arguments ``before`` and its own; it gives exit code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "250")

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bitswap-onnx", *before, *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run
