"""The counts of every injection of a finished campaign, read from a run directory or from a results file.

Results files are our results.csv and those of dnn-benchmarks and tf_injector. An injection's counts are on its first
row. Files of other tools and our older files repeat them on each row; they are read once.
"""

import math
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.campaign.store import Store
from bitswap_onnx.errors import FaultListError
from bitswap_onnx.estimates.source import Source
from bitswap_onnx.faults.bits import FORMATS, format_value, parse_pattern
from bitswap_onnx.faults.csv_rows import read_rows
from bitswap_onnx.faults.fault import Fault, Kind
from bitswap_onnx.faults.fault_list import read_fault_list
from bitswap_onnx.faults.fault_row import TF_INJECTOR, column_names
from bitswap_onnx.faults.numerals import real
from bitswap_onnx.outcome import COUNTS, OUTCOME_NAMES

#: The label of an injection whose faults differ in layer, bit or class, and the label of faults without a known bit.
SEVERAL, OTHER = "several", "other"

FaultLabels = NDArray[np.str_]

_FLOAT32 = frozenset({"float32"})


#: Columns of results that are read by their names, beside those of lists.
_RESULT_COLUMNS = ("n_injections", *COUNTS, "top_1_correct", "clean_bits", "clean_value")


@dataclass(frozen=True, eq=False)
class Recorded:
    """Injections in the order of their list; all arrays have shape (injections,).

    ``inputs``: inferences of each injection. ``counts``: how many of these had an outcome, by those names of `COUNTS`
    that were recorded. ``layers``, ``bits``, ``bit_classes``: common to all its faults, or `SEVERAL`. ``single_flips``:
    every injection flips one bit of one stored parameter. ``accuracy``: top-1 share of the golden run over all its
    inputs; None where it is not known, or where faults name their inputs. ``notes``: for the reader of the rates.
    ``own_inputs``: the number of inputs drawn for each injection (the last block of the data may be shorter), None if
    all ran over the same.
    ``named_inputs``: faults name their inputs. ``from_file``: read from a results file, which does not say which inputs
    ran.
    """

    source: str
    inputs: NDArray[np.int64]
    counts: dict[str, NDArray[np.int64]]
    layers: FaultLabels
    bits: FaultLabels
    bit_classes: FaultLabels
    single_flips: bool
    accuracy: float | None
    notes: tuple[str, ...] = ()
    own_inputs: int | None = None
    named_inputs: bool = False
    from_file: bool = False

    def __len__(self) -> int:
        return len(self.inputs)


class _Place(NamedTuple):
    """The place of one fault; ``stored_flip``: it flips a bit of a stored parameter."""

    layer: str
    bit: str
    bit_class: str
    stored_flip: bool


class _Row(NamedTuple):
    """One row of a results file: its cells by column, and its file and line for messages."""

    where: str
    cells: dict[str, str]


def read_recorded(source: Source) -> Recorded:
    """Read a source, which `open_source` gives.

    Raises FaultListError for a file that is no fault list, has no outcomes, or contradicts itself.
    """
    return _read_file(source.path) if source.store is None else _read_store(source.store)


def read_counts(store: Store) -> tuple[NDArray[np.int64], dict[str, NDArray[np.int64]]]:
    """Return the inferences of each injection that has an outcome, and its counts, as `Recorded` has them."""
    columns = store.count_columns()
    inputs = np.array(columns.pop("inputs"), np.int64)
    return inputs, {name: np.array(column, np.int64) for name, column in columns.items() if None not in column}


def _read_store(store: Store) -> Recorded:
    places = [
        [
            _Place(layer, _bit(bit), bit_class or OTHER, kind == Kind.FLIP and not site)
            for _, layer, bit, bit_class, kind, site in rows
        ]
        for _, rows in groupby(store.fault_places(), key=lambda row: row[0])
    ]
    inputs, counts = read_counts(store)
    golden, blocks = store.golden, store.identity.inputs
    named = blocks is None and bool((inputs != golden.inputs).any())
    correct = None if named else golden.top_1_correct
    accuracy = None if correct is None else correct / golden.inputs
    recorded = _recorded(str(store.run), places, inputs, counts, accuracy, store.warnings)
    return replace(recorded, own_inputs=None if blocks is None else blocks["per_injection"], named_inputs=named)


def _read_file(path: Path) -> Recorded:
    injections = read_fault_list(path)
    rows, golden = _read_rows(path)
    places, counted, notes = [], [], []
    formats = _tensor_formats([fault for injection in injections for fault in injection.faults], rows)
    following = iter(rows)
    for injection in injections:
        fault_rows = [next(following) for _ in injection.faults]
        places.append([_place(fault, formats.get(_tensor(fault), frozenset())) for fault in injection.faults])
        counts = [_counts(row) for row in fault_rows if _is_counted(row)] or [_counts(fault_rows[0])]
        if any(repeated != counts[0] for repeated in counts):
            raise FaultListError(
                f"{fault_rows[0].where}: the counts of injection {injection.id} differ between its rows"
            )
        counted.append(counts[0])
    names = [name for name in COUNTS if all(name in counts for counts in counted)]
    partly = [name for name in COUNTS if name not in names and any(name in counts for counts in counted)]
    if partly:
        notes.append(f"left out, because some rows have no count: {', '.join(partly)}")
    columns = {name: np.array([counts[name] for counts in counted], np.int64) for name in names}
    inputs = np.sum([columns[name] for name in OUTCOME_NAMES], axis=0)
    stated = [counts.get("n_injections", total) for counts, total in zip(counted, inputs.tolist(), strict=True)]
    wrong = np.flatnonzero(np.array(stated) != inputs)
    if wrong.size:
        notes.append(
            f"n_injections is not masked + non_critical + critical for {wrong.size:,} of {len(inputs):,} injections "
            f"(first {stated[wrong[0]]:,} against {inputs[wrong[0]]:,}); shares are of the sums, and of these columns alone"
        )
        columns = {name: columns[name] for name in OUTCOME_NAMES}
    if "clean_bits" not in rows[0].cells:
        notes.append("the file has no clean_bits: bit classes are those of float32")
    accuracy = None if wrong.size else _golden_accuracy(golden, inputs)
    return replace(_recorded(str(path), places, inputs, columns, accuracy, tuple(notes)), from_file=True)


def _recorded(
    source: str,
    places: list[list[_Place]],
    inputs: NDArray[np.int64],
    counts: dict[str, NDArray[np.int64]],
    accuracy: float | None,
    notes: tuple[str, ...],
) -> Recorded:
    layers, bits, classes = (np.array([_common(faults, field) for faults in places]) for field in range(3))
    single = all(len(faults) == 1 and faults[0].stored_flip for faults in places)
    return Recorded(source, inputs, counts, layers, bits, classes, single, accuracy, notes)


def _common(faults: list[_Place], field: int) -> str:
    """Return what all faults of an injection have in a field, or `SEVERAL`."""
    first = str(faults[0][field])
    return first if all(place[field] == first for place in faults) else SEVERAL


def _bit(bit: int | None) -> str:
    return OTHER if bit is None else str(bit)


def _read_rows(path: Path) -> tuple[list[_Row], _Row | None]:
    """Return the rows of a results file, and tf_injector's golden row; raises for a list without outcomes."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = read_rows(path.name, file)
        header = column_names(next(lines)[1], _RESULT_COLUMNS)
        missing = [name for name in OUTCOME_NAMES if name not in header]
        if missing:
            raise FaultListError(
                f"{path.name}:1: expected results with the columns {','.join(OUTCOME_NAMES)}, missing {','.join(missing)}; "
                "run the list with inject first"
            )
        double = [name for name, times in Counter(header).items() if times > 1 and name in ("n_injections", *COUNTS)]
        if double:
            raise FaultListError(f"{path.name}:1: column {double[0]} stands twice in the header; keep one")
        rows = [
            _Row(f"{path.name}:{line}", dict(zip(header, map(str.strip, cells), strict=False))) for line, cells in lines
        ]
    golden = rows.pop(0) if rows[0].cells.get(TF_INJECTOR[0]) == "GOLDEN" else None
    return rows, golden


def _is_counted(row: _Row) -> bool:
    return any(row.cells.get(name) for name in ("n_injections", *COUNTS))


def _counts(row: _Row) -> dict[str, int]:
    """Return the counts of a row. An empty cell is no count; masked, non_critical and critical must be there."""
    counts = {}
    for name in ("n_injections", *COUNTS):
        text = row.cells.get(name, "")
        if text or name in OUTCOME_NAMES:
            counts[name] = _whole(text, name, row.where)
    total = sum(counts[name] for name in OUTCOME_NAMES)
    if not total:
        raise FaultListError(f"{row.where}: masked, non_critical and critical are all 0: this injection has not run")
    large = [name for name, count in counts.items() if name != "n_injections" and count > total]
    if large and counts.get("n_injections", total) == total:
        raise FaultListError(f"{row.where}: {large[0]} is {counts[large[0]]}, more than the {total} inputs")
    return counts


def _whole(text: str, name: str, where: str) -> int:
    try:
        number = real(text)
    except ValueError:
        number = math.nan
    if not (0 <= number < 2**53 and number.is_integer()):
        raise FaultListError(f"{where}: {name}: expected a whole number of inputs, found {text[:40]!r}")
    return int(number)


def _golden_accuracy(golden: _Row | None, inputs: NDArray[np.int64]) -> float | None:
    """Return the clean accuracy of tf_injector's golden row, if every injection ran over as many inputs."""
    if golden is None or not golden.cells.get("n_injections") or not golden.cells.get("top_1_correct"):
        return None
    total, correct = (_whole(golden.cells[name], name, golden.where) for name in ("n_injections", "top_1_correct"))
    return correct / total if total and (inputs == total).all() else None


def _place(fault: Fault, formats: frozenset[str]) -> _Place:
    bit_class = OTHER if fault.bit is None else _bit_class(fault.bit, formats)
    return _Place(fault.layer, _bit(fault.bit), bit_class, fault.kind is Kind.FLIP and fault.site is None)


def _bit_class(bit: int, formats: frozenset[str]) -> str:
    """Return the class of a bit in ``formats``; `OTHER` where there are none, or where they disagree."""
    classes = {FORMATS[name].bit_class(bit) for name in formats if bit < FORMATS[name].width}
    return classes.pop() if len(classes) == 1 else OTHER


def _tensor(fault: Fault) -> tuple[object, ...]:
    """Return what tells the tensor or value that a fault hits from others; all its elements have one format."""
    return fault.layer, fault.parameter, fault.site


def _tensor_formats(faults: list[Fault], rows: list[_Row]) -> dict[tuple[object, ...], frozenset[str]]:
    """Return, by tensor, the formats in which the clean bits of all its rows read as the clean values.

    Without clean bits, float32.
    """
    formats: dict[tuple[object, ...], frozenset[str]] = {}
    for fault, row in zip(faults, rows, strict=True):
        clean_bits, tensor = row.cells.get("clean_bits"), _tensor(fault)
        fitting = _formats(clean_bits, row.cells.get("clean_value", "")) if clean_bits is not None else _FLOAT32
        if fitting:
            formats[tensor] = formats.get(tensor, fitting) & fitting
    return formats


@cache
def _formats(clean_bits: str, clean_value: str) -> frozenset[str]:
    """Return the formats, with as many digits as ``clean_bits``, in which these read as ``clean_value``."""
    digits = clean_bits.removeprefix("0x")
    bits = parse_pattern(f"0x{digits}")
    if bits is None:
        return frozenset()
    fitting = (fmt for fmt in FORMATS.values() if -(-fmt.width // 4) == len(digits) and not bits >> fmt.width)
    return frozenset(fmt.name for fmt in fitting if format_value(bits, fmt) == clean_value)
