"""A network → a random fault list: plain rows, as the CSV file has them and as the oracle reads them."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from tests.benchmarks.fuzz.builder import Array, Parameter, Place
from tests.benchmarks.fuzz.networks import Network

COLUMNS = ("Injection", "Layer", "TensorIndex", "Bit", "Parameter", "Kind", "Value", "Site", "Input")

#: Bit patterns worth setting: Inf, -Inf, NaNs of both kinds, the smallest subnormal, -0, the largest number.
_PATTERNS = {
    4: (0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0x00000001, 0x80000000, 0x7F7FFFFF),
    2: (0x7C00, 0xFC00, 0x7E00, 0x7C01, 0x0001, 0x8000, 0x7BFF),
}


@dataclass(frozen=True)
class Row:
    """One fault: in a stored ``tensor``, or at a ``place``; ``input``: the one it hits, None for all."""

    index: tuple[int, ...]
    kind: str
    bit: int | None
    value: str
    tensor: Parameter | None = None
    place: Place | None = None
    input: int | None = None

    def cells(self, identifier: str) -> list[str]:
        """Return the row as the columns of a list."""
        layer = self.tensor.layer if self.tensor else self.place.layer if self.place else ""
        bit = "" if self.bit is None else str(self.bit)
        cells = [
            identifier,
            layer,
            str(self.index),
            bit,
            self.tensor.leaf if self.tensor else "",
            self.kind,
            self.value,
        ]
        return [
            *cells,
            *([self.place.site, "all" if self.input is None else str(self.input)] if self.place else ["", ""]),
        ]


@dataclass(frozen=True)
class Injection:
    """Faults that are applied together."""

    id: str
    rows: tuple[Row, ...]

    @property
    def stored(self) -> list[Row]:
        return [row for row in self.rows if row.tensor is not None]

    @property
    def neurons(self) -> list[Row]:
        return [row for row in self.rows if row.place is not None]

    @property
    def site(self) -> str:
        """What is hit: ``weights``, ``neurons`` or ``mixed``."""
        return "mixed" if self.stored and self.neurons else "neurons" if self.neurons else "weights"

    @property
    def inputs(self) -> list[int] | None:
        """The inputs that the injection runs over, None for all."""
        named = {row.input for row in self.neurons}
        return None if self.stored or None in named else sorted(n for n in named if n is not None)


def edited(bits: Array, row: Row, dtype: np.dtype[Any]) -> Array:
    """Return unsigned ``bits`` after a fault."""
    unsigned = bits.dtype.type
    if row.bit is not None:
        one = unsigned(1 << row.bit)
        changed = {"flip": bits ^ one, "stuck_at_0": bits & ~one, "stuck_at_1": bits | one}
        return np.asarray(changed[row.kind])
    pattern = _pattern(row.value, dtype)
    return bits ^ unsigned(pattern) if row.kind == "mask" else np.full_like(bits, pattern)


def _pattern(value: str, dtype: np.dtype[Any]) -> int:
    if value.startswith("0x"):
        return int(value, 16)
    number = np.array([float(value)]).astype(dtype)
    return int(number.view(f"u{dtype.itemsize}")[0])


def draw_faults(network: Network, seed: int, count: int) -> list[Injection]:
    """Return ``count`` random injections, most of them in one or two parameters, so that these are worth a fast lane."""
    rng = np.random.default_rng((seed, network.number, 1))
    stored = _tensors(network.model)
    drawer = _Drawer(rng, network, stored)
    hot = [drawer.parameter() for _ in range(int(rng.integers(1, 3)))]
    hot_places = [drawer.place() for _ in range(int(rng.integers(1, 3)))]
    many = int(count * rng.uniform(0.6, 0.9))
    share = float(rng.choice((0.1, 0.3, 0.85))) if network.takes_neurons else 0.0
    injections = []
    for number in range(count):
        source = hot if number < many else None
        neurons = rng.random() < share
        rows = drawer.neurons(hot_places if number < many else None) if neurons else drawer.stored(source)
        if neurons and rng.random() < 0.2:
            rows += drawer.stored(hot[:1])
        elif not neurons and rng.random() < 0.12:
            rows += drawer.stored(hot if rng.random() < 0.5 else None, taken=rows)
        elif not neurons and number % 17 == 5:
            rows = two_bits(rows[0], np.random.default_rng((seed, network.number, number)), drawer.width)
        injections.append(Injection(f"i{number}", tuple(rows)))
    return injections


def two_bits(row: Row, rng: np.random.Generator, width: int) -> list[Row]:
    """Return flips of two bits of the element that a fault hits."""
    bits = rng.choice(width, 2, replace=False).tolist()
    return [replace(row, kind="flip", bit=bit, value="") for bit in bits]


def write_faults(path: Path, injections: Sequence[Injection]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(row.cells(injection.id) for injection in injections for row in injection.rows)


def all_graphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    """Return a graph and those within it."""
    inner = [a.g for node in graph.node for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    return [graph, *(found for one in inner for found in all_graphs(one))]


def _tensors(model: onnx.ModelProto) -> dict[str, Array]:
    graphs = all_graphs(model.graph)
    return {t.name: numpy_helper.to_array(t) for graph in graphs for t in graph.initializer}


class _Drawer:
    """Draws faults of one network."""

    def __init__(self, rng: np.random.Generator, network: Network, stored: dict[str, Array]) -> None:
        self.rng, self.network, self.tensors = rng, network, stored
        self.dtype = network.inputs.dtype
        self.width = 8 * self.dtype.itemsize

    def parameter(self) -> Parameter:
        """Draw a parameter, kernels more often than others."""
        pool = [p for p in self.network.parameters for _ in range(3 if len(p.shape) > 1 else 1)]
        return pool[int(self.rng.integers(len(pool)))]

    def place(self) -> Place:
        return self.network.places[int(self.rng.integers(len(self.network.places)))]

    def stored(self, pool: list[Parameter] | None, taken: Sequence[Row] = ()) -> list[Row]:
        """Draw a fault in a parameter that changes something, or is a stuck-at or set; no element twice."""
        parameter = pool[int(self.rng.integers(len(pool)))] if pool else self.parameter()
        index = self._index(parameter.shape)
        if any(row.tensor == parameter and row.index == index for row in taken):
            return []
        return [Row(index, *self._change(), tensor=parameter)]

    def neurons(self, pool: list[Place] | None) -> list[Row]:
        """Draw one fault in a neuron, or two of one value."""
        place = pool[int(self.rng.integers(len(pool)))] if pool else self.place()
        index, other = self._index(place.shape), self._index(place.shape)
        every = self.rng.random() < 0.6
        rows = [Row(index, *self._change(), place=place, input=None if every else self._input())]
        if index != other and self.rng.random() < 0.15:
            rows.append(Row(other, *self._change(), place=place, input=None if every else self._input()))
        return rows

    def _input(self) -> int:
        return int(self.rng.integers(len(self.network.inputs)))

    def _index(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(int(self.rng.integers(size)) for size in shape)

    def _change(self) -> tuple[str, int | None, str]:
        """Return kind, bit and value of a fault."""
        kind = str(self.rng.choice(("flip", "stuck_at_0", "stuck_at_1", "mask", "set"), p=(0.6, 0.1, 0.1, 0.1, 0.1)))
        if kind == "mask":
            return kind, None, f"0x{int(self.rng.integers(1, 1 << self.width)):x}"
        if kind != "set":
            return kind, self._bit(), ""
        patterns = _PATTERNS[self.dtype.itemsize]
        if self.rng.random() < 0.6:
            return kind, None, f"0x{patterns[int(self.rng.integers(len(patterns)))]:x}"
        return kind, None, str(self.rng.choice(("0.1", "-3.75", "1e-3", "100", "inf", "nan", "0", "-0.0")))

    def _bit(self) -> int:
        """Draw a bit; sign and exponent as often as the mantissa."""
        mantissa = 23 if self.width == 32 else 10
        high = self.rng.random() < 0.5
        return int(self.rng.integers(mantissa, self.width) if high else self.rng.integers(mantissa))
