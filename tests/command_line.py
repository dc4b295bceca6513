"""The command line, run within a test."""

import sys
from collections.abc import Callable

import pytest

from bitswap_onnx.cli.main import main

Run = Callable[..., tuple[int, str, str]]


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
