"""Tables at the width of a terminal: no header, number or word is broken; names fold at dots and slashes."""

import re
from pathlib import Path

import pytest

from bitswap_onnx.cli import console, summary
from bitswap_onnx.cli.tables import PlainTable, wrapped
from tests.command_line import Run, begin_folder, runner

LONG = "features.denseblock1.denselayer16.conv2/Conv_quant"

#: Command lines with a table, in an order in which each finds what it reads.
TABLES = (
    "inspect cnn.onnx",
    "inspect cnn.onnx --neurons",
    "faults describe faults.csv --model cnn.onnx",
    "faults generate cnn.onnx --scheme layer --number 150 -o drawn.csv",
    "inject cnn.onnx drawn.csv -o run --workers 0",
    "estimate run --by network,layer,bit,bit-class",
    "compare run run -o comparison",
    "neurons cnn.onnx -o neurons --workers 0 --first 4",
    "sweep cnn.onnx --rates 1e-4,1e-3 --repeats 2 -o sweep --workers 0 --first 4",
    "rank cnn.onnx -o rank --workers 0 --first 8",
)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in a folder with a model, its data and a list; return exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    begin_folder(tmp_path)
    return runner(monkeypatch, capsys)


def cells(printed: str) -> list[list[str]]:
    """Return the lines of all tables, each with its cells."""
    return [re.split("[┃│]", line)[1:-1] for line in printed.splitlines() if line[:1] in ("┃", "│")]


def words(printed: str) -> set[str]:
    return {word for line in cells(printed) for cell in line for word in cell.split()}


def at(width: int, shown: list[PlainTable], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(console.out, "width", width)
    with console.out.capture() as captured:
        for shown_table in shown:
            console.out.print(shown_table)
    return captured.get()


def test_tables_of_commands_break_no_word(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same words stand in tables of 200, 120 and 80 columns."""
    shown: list[PlainTable] = []

    def table(title: str, *columns: str) -> PlainTable:
        shown.append(PlainTable(title, columns))
        return shown[-1]

    monkeypatch.setattr(console, "table", table)
    monkeypatch.setattr(summary, "table", table)
    for command in TABLES:
        assert run(*command.split())[0] == 0, command
    assert len(shown) >= 20
    printed = {width: at(width, shown, monkeypatch) for width in (200, 120, 80)}
    for width, text in printed.items():
        assert max(map(len, text.splitlines())) <= width
    assert words(printed[80]) == words(printed[120]) == words(printed[200])


def table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int) -> str:
    monkeypatch.setattr(console.out, "width", width)
    result = console.table("Title of seven words or of eight", "Layer", ">Faults drawn", ">Share ± SE", "Dtype")
    result.caption = "the first 2 of 64"
    result.add_row(LONG, "1,234,567", "12.345 % ± 0.12 %", "float32")
    result.add_row("conv", "8", "(≤ 95 %)", "int8")
    console.out.print(result)
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [200, 80, 70, 60, 50])
def test_names_fold_at_dots_and_slashes(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = table(monkeypatch, capsys, width)
    assert max(map(len, printed.splitlines())) <= width
    assert {"Layer", "Faults", "drawn", "Share", "±", "SE", "Dtype", "1,234,567", "12.345", "float32"} <= words(printed)
    names = [line[0].strip() for line in cells(printed)]
    assert LONG in "".join(names)
    assert all(name.endswith((".", "/")) for name in names if name and LONG.startswith(name) and name != LONG)
    assert not re.search(r"[0-9]\s*[┃│]\s*%", printed)


def test_a_number_is_never_cut(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """In a terminal of 20 columns lines are longer than that."""
    printed = table(monkeypatch, capsys, 20)
    assert {"1,234,567", "12.345", "0.12", "Faults", "float32"} <= words(printed)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("one two three", ["one two", "three"]),
        ("  an indented line", ["  an", "indented", "line"]),
        ("a/long/path/of/a/file alone", ["a/long/path/of/a/file", "alone"]),
        ("only 100 %, not", ["only", "100 %,", "not"]),
        ("", [""]),
    ],
)
def test_lines_wrap_between_words(text: str, lines: list[str]) -> None:
    assert wrapped(text, 9).split("\n") == lines


def test_missing_cells_are_empty(capsys: pytest.CaptureFixture[str]) -> None:
    result = console.table("", "Layer", ">Faults", "Shape")
    result.add_row("conv")
    result.add_row("", "1", "")
    console.out.print(result)
    printed = cells(capsys.readouterr().out)
    assert printed[-2:] == [[" conv  ", "        ", "       "], ["       ", "      1 ", "       "]]
