"""What a finished campaign recorded of every injection: read from a run directory, or from a results file.

Results files are our results.csv, and those of dnn-benchmarks and tf_injector. An injection's counts stand on the first row
of its faults, or on all of them, as other tools and older files of ours have it, and count once.
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

from bitswap_onnx.campaign.run_directory import reading
from bitswap_onnx.campaign.store import Store
from bitswap_onnx.errors import FaultListError, RunError
from bitswap_onnx.estimates.frames import drawn_strata
from bitswap_onnx.faults.bits import FORMATS, format_value, parse_pattern
from bitswap_onnx.faults.csv_rows import read_rows
from bitswap_onnx.faults.fault import Fault, Kind
from bitswap_onnx.faults.fault_list import read_fault_list
from bitswap_onnx.faults.fault_row import TF_INJECTOR
from bitswap_onnx.faults.numerals import real
from bitswap_onnx.outcome import COUNTS, OUTCOME_NAMES
from bitswap_onnx.stats.stratified import Strata

#: What an injection with faults of several layers, bits or classes belongs to; what has no bit, or none that is known.
SEVERAL, OTHER = "several", "other"

FaultLabels = NDArray[np.str_]


@dataclass(frozen=True, eq=False)
class Recorded:
    """Injections in the list's order; all arrays have shape (injections,).

    ``inputs``: inferences of each. ``counts``: how many of them, by those names of `COUNTS` that were recorded.
    ``layers``, ``bits``, ``bit_classes``: of all its faults, or `SEVERAL`. ``single_flips``: every injection flips one bit
    of one stored parameter. ``accuracy``: top-1 of the golden run, None where that or its inputs are not known.
    ``notes``: what a reader has to know. ``own_inputs``: how many were drawn for each injection (the data's last block may
    have fewer), None: none were. ``named_inputs``: faults name theirs. ``from_file``: which ran is not known.
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
    strata: Strata | None = None

    def __len__(self) -> int:
        return len(self.inputs)


class _Place(NamedTuple):
    """Where one fault sits."""

    layer: str
    bit: str
    bit_class: str
    stored_flip: bool


class _Row(NamedTuple):
    """One row of a results file: the cells by column, and where it stands."""

    where: str
    cells: dict[str, str]


def read_recorded(source: Path) -> Recorded:
    """Read a run directory or a results file.

    Raises RunError where there is neither, for a run that is not finished or whose audit failed, FaultListError for a file
    that is no list, has no outcomes, or contradicts itself.
    """
    if not source.exists():
        raise RunError(f"{source}: expected a run directory or a results file, found nothing there")
    if not source.is_dir():
        return _read_file(source)
    with reading(source) as store:
        store.check_complete()
        return _read_store(store)


def read_counts(store: Store) -> tuple[NDArray[np.int64], dict[str, NDArray[np.int64]]]:
    """Return the inferences of each injection that has an outcome, and its counts, as `Recorded` has them."""
    names = ("inputs", *COUNTS)
    sums = ", ".join(f"SUM({name})" for name in names)
    table = store.query(f"SELECT {sums} FROM outcome GROUP BY position ORDER BY position").fetchall()
    columns = dict(zip(names, zip(*table, strict=True), strict=True))
    inputs = np.array(columns.pop("inputs"), np.int64)
    return inputs, {name: np.array(column, np.int64) for name, column in columns.items() if None not in column}


def _read_store(store: Store) -> Recorded:
    rows = store.query("SELECT position, layer, bit, bit_class, kind, site FROM receipt ORDER BY position, row")
    places = [
        [
            _Place(layer, _bit(bit), name or OTHER, kind == Kind.FLIP and not site)
            for _, layer, bit, name, kind, site in own
        ]
        for _, own in groupby(rows, key=lambda row: int(row[0]))
    ]
    inputs, counts = read_counts(store)
    golden, drawn = store.golden, store.identity.inputs
    named = drawn is None and bool((inputs != golden.inputs).any())
    right = None if named else golden.top_1_correct
    accuracy = None if right is None else right / golden.inputs
    strata, notes = drawn_strata(store)
    found = _recorded(str(store.run), places, inputs, counts, accuracy, notes)
    return replace(
        found, own_inputs=None if drawn is None else drawn["per_injection"], named_inputs=named, strata=strata
    )


def _read_file(path: Path) -> Recorded:
    injections = read_fault_list(path)
    rows, golden = _read_rows(path)
    places, counted, notes = [], [], []
    following = iter(rows)
    for injection in injections:
        own = [next(following) for _ in injection.faults]
        places.append([_place(fault, row) for fault, row in zip(injection.faults, own, strict=True)])
        counts = [_counts(row) for row in own if _is_counted(row)] or [_counts(own[0])]
        if any(other != counts[0] for other in counts):
            raise FaultListError(f"{own[0].where}: the counts of injection {injection.id} differ between its rows")
        counted.append(counts[0])
    names = [name for name in COUNTS if all(name in counts for counts in counted)]
    partly = [name for name in COUNTS if name not in names and any(name in counts for counts in counted)]
    if partly:
        notes.append(f"left out, because some rows have no count: {', '.join(partly)}")
    columns = {name: np.array([counts[name] for counts in counted], np.int64) for name in names}
    inputs = np.sum([columns[name] for name in OUTCOME_NAMES], axis=0)
    said = [counts.get("n_injections", total) for counts, total in zip(counted, inputs.tolist(), strict=True)]
    wrong = np.flatnonzero(np.array(said) != inputs)
    if wrong.size:
        notes.append(
            f"n_injections is not masked + non_critical + critical for {wrong.size:,} of {len(inputs):,} injections "
            f"(first {said[wrong[0]]:,} against {inputs[wrong[0]]:,}); shares are of the sums, and of these columns alone"
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
    layers, bits, classes = (np.array([_agreed(own, field) for own in places]) for field in range(3))
    single = all(len(own) == 1 and own[0].stored_flip for own in places)
    return Recorded(source, inputs, counts, layers, bits, classes, single, accuracy, notes)


def _agreed(own: list[_Place], field: int) -> str:
    first = str(own[0][field])
    return first if all(place[field] == first for place in own) else SEVERAL


def _bit(bit: int | None) -> str:
    return OTHER if bit is None else str(bit)


def _read_rows(path: Path) -> tuple[list[_Row], _Row | None]:
    """Return the rows of a file that is a fault list, and tf_injector's golden one; raises for one without outcomes."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = read_rows(path.name, file)
        header = [name.strip() for name in next(lines)[1]]
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
    """Return the counts that a row has; empty cells are none, but outcomes must be there."""
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
    total, right = (_whole(golden.cells[name], name, golden.where) for name in ("n_injections", "top_1_correct"))
    return right / total if total and (inputs == total).all() else None


def _place(fault: Fault, row: _Row) -> _Place:
    bit_class = OTHER
    if fault.bit is not None:
        bit_class = _bit_class(fault.bit, row.cells.get("clean_bits"), row.cells.get("clean_value", ""))
    return _Place(fault.layer, _bit(fault.bit), bit_class, fault.kind is Kind.FLIP and fault.site is None)


def _bit_class(bit: int, clean_bits: str | None, clean_value: str) -> str:
    """Return the class of a bit: float32's in a file without clean bits, else that of formats that give the value."""
    if clean_bits is None:
        return FORMATS["float32"].bit_class(bit) if bit < FORMATS["float32"].width else OTHER
    found = {FORMATS[name].bit_class(bit) for name in _formats(clean_bits, clean_value) if bit < FORMATS[name].width}
    return found.pop() if len(found) == 1 else OTHER


@cache
def _formats(clean_bits: str, clean_value: str) -> tuple[str, ...]:
    """Return the formats of as many bits as there are digits in which ``clean_bits`` reads as ``clean_value``."""
    digits = clean_bits.removeprefix("0x")
    bits, width = parse_pattern(f"0x{digits}"), 4 * len(digits)
    if bits is None:
        return ()
    fitting = (fmt for fmt in FORMATS.values() if fmt.width == width and not bits >> width)
    return tuple(fmt.name for fmt in fitting if format_value(bits, fmt) == clean_value)
