"""Damaged fault lists for the small CNN."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from bitswap_onnx.faults.fault_list import read_fault_list
from bitswap_onnx.graph.model import from_proto
from bitswap_onnx.graph.resolve import resolve
from tests.builders import cnn

MODEL = from_proto(cnn())
HEADER = "Injection,Layer,TensorIndex,Bit,Parameter,Kind,Value,Site,Input"
ROWS = (
    '0,conv,"(0, 0, 0, 0)",30,,,,,',
    '1,fc,"(1, 2)",3,weight,stuck_at_1,,,',
    "2,fc,(2),,bias,set,0.5,,",
    '3,conv,"(1, 0, 2, 1)",,,mask,0x80000001,,',
    '4,conv,"(0, 1, 1)",30,,,,output,3',
    '4,fc,"(7,)",12,,,,input,all',
)
CELLS = (
    *(
        "",
        " ",
        "nan",
        "-1",
        "1e400",
        "9" * 400,
        "0x" + "f" * 300,
        "1.5",
        "0.0",
        "inf",
        "-0",
        "١",
        "1_0",
        "\u00b2",
        "٣٠",
    ),
    *(
        "(",
        ")",
        "[]",
        "()",
        "((1, 2), 3)",
        "(1,,2)",
        "(-1, 0)",
        "(99999999999999999999,)",
        "(" * 500,
        "1;2",
        "np.int64(3)",
    ),
    *("conv", "nothing", "conv.weight", "*", "../x", "\x00", "\u2028", "\ufeff", "\U0001f600", "\x1b[31m", "a" * 5000),
    *(
        "flip",
        "FLIP",
        "mask",
        "set",
        "stuck_at_0",
        "output",
        "input",
        "all",
        "0x",
        "0xzz",
        "True",
        "None",
        '"',
        "'",
        "=1+1",
    ),
)
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1", "cp037")


def make_list(rng: np.random.Generator, folder: Path) -> tuple[str, dict[str, Callable[[], object]]]:
    """Damage a list once or twice, as text, then as bytes."""
    rows = [HEADER, *(ROWS[i] for i in sorted(rng.choice(len(ROWS), rng.integers(0, len(ROWS) + 1), replace=False)))]
    done = []
    for _ in range(rng.integers(1, 3)):
        change = _TEXT[rng.integers(len(_TEXT))]
        rows = change(rng, rows)
        done.append(change.__name__)
    end = str(rng.choice(["\n", "\r\n", "\r", "\n\n", "\x0b", "\x85"], p=[0.75, 0.2, 0.02, 0.01, 0.01, 0.01]))
    encoding = "utf-8" if rng.random() < 0.9 else str(rng.choice(ENCODINGS))
    content = end.join(rows).encode(encoding, "replace")
    if rng.random() < 0.15:
        content = _bytes(rng, content)
        done.append("bytes")
    path = folder / "faults.csv"
    path.write_bytes(content)
    steps: dict[str, Callable[[], object]] = {
        "load": lambda: list(read_fault_list(path)),
        "resolve": lambda: list(resolve(MODEL, read_fault_list(path))),
        "resolve msb": lambda: list(resolve(MODEL, read_fault_list(path), "msb")),
    }
    return ", ".join(done), steps


def _cell(rng: np.random.Generator, rows: list[str]) -> list[str]:
    row = int(rng.integers(len(rows)))
    cells = rows[row].split(",")
    cells[rng.integers(len(cells))] = str(rng.choice(CELLS))
    return [*rows[:row], ",".join(cells), *rows[row + 1 :]]


def _delete(rng: np.random.Generator, rows: list[str]) -> list[str]:
    row = int(rng.integers(len(rows)))
    cells = rows[row].split(",")
    del cells[rng.integers(len(cells))]
    return [*rows[:row], ",".join(cells), *rows[row + 1 :]]


def _repeat(rng: np.random.Generator, rows: list[str]) -> list[str]:
    return [*rows, rows[rng.integers(len(rows))] * int(rng.integers(1, 3))]


def _separator(rng: np.random.Generator, rows: list[str]) -> list[str]:
    return [row.replace(",", str(rng.choice([";", "\t", "|", ":", " ", ",,", ", "]))) for row in rows]


def _insert(rng: np.random.Generator, rows: list[str]) -> list[str]:
    row = int(rng.integers(len(rows)))
    at = int(rng.integers(len(rows[row]) + 1))
    return [*rows[:row], rows[row][:at] + str(rng.choice(CELLS)) + rows[row][at:], *rows[row + 1 :]]


def _long(rng: np.random.Generator, rows: list[str]) -> list[str]:
    return [*rows, str(rng.choice(["x", ",", '"', "(", "9"])) * int(rng.choice([1_000, 140_000, 1_000_000]))]


def _shuffle(rng: np.random.Generator, rows: list[str]) -> list[str]:
    return [rows[i] for i in rng.permutation(len(rows))]


_TEXT = (_cell, _cell, _cell, _delete, _repeat, _separator, _insert, _insert, _long, _shuffle)


def _bytes(rng: np.random.Generator, content: bytes) -> bytes:
    data = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        if data:
            data[rng.integers(len(data))] = rng.integers(256)
    return bytes(data[: rng.integers(len(data) + 1)]) if rng.random() < 0.5 else bytes(data)
