"""Fault lists: CSV in and out, one injection at a time, so that a list of any length fits in memory.

Three headers are read: ours and dnn-benchmarks' (``Injection,Layer,TensorIndex,Bit``, plus optional columns) and
tf_injector's (``inj_id,target_layer,layer_weigths,bit_pos``, spelt so, whose first row may be ``GOLDEN``). Other
columns are ignored, so results files are lists too. Every error says file and line.
"""

import csv
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from bitswap_onnx.errors import FaultListError
from bitswap_onnx.faults.bits import is_number, parse_pattern
from bitswap_onnx.faults.fault import BIT_KINDS, Fault, Injection, Kind
from bitswap_onnx.files import replacing

REQUIRED = ("Injection", "Layer", "TensorIndex", "Bit")
OPTIONAL = ("Parameter", "Kind", "Value", "Site", "Input")
TF_INJECTOR = ("inj_id", "target_layer", "layer_weigths", "bit_pos")

_INDEX = re.compile(r"[(\[ ]*((?:[0-9]{1,18}(?:\s*,\s*[0-9]{1,18})*\s*,?)?)\s*[)\]]?")
_INTEGER = re.compile(r"[0-9]{1,9}")
_KINDS = {kind.value: kind for kind in Kind}


@dataclass(frozen=True)
class FaultList:
    """A fault list on disk. Iterating reads it anew and yields one `Injection` after the other."""

    path: Path

    def __iter__(self) -> Iterator[Injection]:
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as file:
                yield from _injections(self.path.name, file)
        except UnicodeDecodeError as error:
            raise FaultListError(f"{self.path}: expected UTF-8 text, found {error.reason}; save it as UTF-8") from None
        except OSError as error:
            raise FaultListError(f"{self.path}: cannot read the fault list: {error.strerror}") from None


def read_fault_list(path: str | Path) -> FaultList:
    """Open a fault list and check its header and first injection.

    Raises FaultListError for a missing file, a wrong header, a bad first row or a list without rows. Later rows are
    checked when they are read.
    """
    faults = FaultList(Path(path))
    if next(iter(faults), None) is None:
        raise FaultListError(f"{faults.path}: the fault list has a header but no rows")
    return faults


def write_fault_list(path: str | Path, injections: Iterable[Injection]) -> None:
    """Write injections as a CSV list; the optional columns appear only where some fault needs them.

    ``injections`` is iterated twice, so that a list of any length fits in memory. The file appears whole or not at all;
    raises RunError where it cannot be written.
    """
    if isinstance(injections, Iterator):
        injections = tuple(injections)
    needed = {name for injection in injections for fault in injection.faults for name in _needed(fault)}
    columns = [*REQUIRED, *(name for name in OPTIONAL if name in needed)]
    with replacing(Path(path)) as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for injection in injections:
            for fault in injection.faults:
                if not needed.issuperset(_needed(fault)):
                    raise FaultListError(f"{fault.where}: the fault list changed while it was read; run again")
                writer.writerow(_row(injection.id, fault))


def _needed(fault: Fault) -> list[str]:
    used = (("Parameter", fault.parameter), ("Kind", fault.kind is not Kind.FLIP), ("Value", fault.value))
    return [name for name, wanted in used if wanted]


def fingerprint(injections: Iterable[Injection]) -> Iterator[tuple[Injection, str]]:
    """Yield each injection with the running SHA-256 of all up to it; the last one identifies the list's content."""
    digest = hashlib.sha256()
    for injection in injections:
        for fault in injection.faults:
            digest.update(repr((injection.id, *_row(injection.id, fault).values())).encode())
        yield injection, digest.hexdigest()


def _row(injection: str, fault: Fault) -> dict[str, object]:
    return {
        "Injection": injection,
        "Layer": fault.layer,
        "TensorIndex": str(fault.index),
        "Bit": "" if fault.bit is None else fault.bit,
        "Parameter": fault.parameter or "",
        "Kind": fault.kind.value,
        "Value": fault.value or "",
    }


class _Columns:
    """Where each column of one file stands; an absent optional column reads as an empty cell."""

    def __init__(self, header: list[str], source: str) -> None:
        names = [name.strip() for name in header]
        wanted = TF_INJECTOR if TF_INJECTOR[0] in names else REQUIRED
        missing = [name for name in wanted if name not in names]
        if missing:
            found = ",".join(names)[:80]
            raise FaultListError(
                f"{source}:1: expected a header with {','.join(REQUIRED)}; missing {', '.join(missing)}, found {found!r}"
            )
        known = {name.casefold(): name for name in (*wanted, *OPTIONAL)}
        for name in names:
            meant = known.get(re.sub(r"[\s_-]", "", name.casefold()), name)
            if meant != name and meant in OPTIONAL:
                raise FaultListError(f"{source}:1: column {name!r} would be ignored; write it {meant}")
        double = sorted({name for name in names if name in (*wanted, *OPTIONAL) and names.count(name) > 1})
        if double:
            raise FaultListError(f"{source}:1: column {double[0]} stands twice in the header; keep one")
        self.width = 1 + max(names.index(name) for name in wanted)
        self.required = tuple(names.index(name) for name in wanted)
        self.optional = tuple(names.index(name) if name in names else None for name in OPTIONAL)
        self.golden_row = wanted is TF_INJECTOR

    def cells(self, row: list[str]) -> tuple[list[str], list[str]]:
        required = [row[i].strip() for i in self.required]
        optional = ["" if i is None or i >= len(row) else row[i].strip() for i in self.optional]
        return required, optional


def _injections(source: str, file: TextIO) -> Iterator[Injection]:
    """Group adjacent rows of one id; an id that comes back later is an error."""
    first_line: dict[str, int] = {}
    current = ""
    faults: list[Fault] = []
    for line, identifier, fault in _rows(source, file):
        if identifier != current:
            if faults:
                yield Injection(current, tuple(faults))
            if identifier in first_line:
                raise FaultListError(
                    f"{source}:{line}: injection {identifier} stood at line {first_line[identifier]} already; "
                    "put all rows of one injection next to each other, or give it another id"
                )
            first_line[identifier] = line
            current, faults = identifier, []
        faults.append(fault)
    if faults:
        yield Injection(current, tuple(faults))


def _rows(source: str, file: TextIO) -> Iterator[tuple[int, str, Fault]]:
    reader = csv.reader(file)
    try:
        header = next(reader, None)
        if header is None:
            raise FaultListError(f"{source}:1: expected a header with {','.join(REQUIRED)}, found an empty file")
        columns = _Columns(header, source)
        golden_row = columns.golden_row
        for row in reader:
            if not row or row == [""]:
                continue
            if golden_row and "GOLDEN" in row[columns.required[0] : columns.required[0] + 1]:
                golden_row = False
                continue
            golden_row = False
            yield reader.line_num, *_parse(row, columns, f"{source}:{reader.line_num}")
    except csv.Error as error:
        raise FaultListError(f"{source}:{reader.line_num}: not a CSV row: {error}") from None


def _parse(row: list[str], columns: _Columns, where: str) -> tuple[str, Fault]:
    if len(row) < columns.width:
        raise FaultListError(
            f"{where}: expected at least {columns.width} cells, found {len(row)}: {','.join(row)[:80]!r}"
        )
    (identifier, layer, index, bit), (parameter, kind, value, site, inputs) = columns.cells(row)
    if not layer:
        raise FaultListError(f"{where}: expected a layer name, found an empty cell")
    if site or inputs:
        raise FaultListError(
            f"{where}: Site and Input describe neuron faults, which this version does not inject; leave them empty"
        )
    fault_kind = _kind(kind, where)
    return identifier, Fault(
        layer=layer,
        index=_index(index, where),
        bit=_bit(bit, fault_kind, where),
        kind=fault_kind,
        value=_value(value, fault_kind, where),
        parameter=parameter or None,
        where=where,
    )


def _kind(text: str, where: str) -> Kind:
    if not text:
        return Kind.FLIP
    if text not in _KINDS:
        raise FaultListError(f"{where}: Kind {text!r} is none of {', '.join(_KINDS)}")
    return _KINDS[text]


def _index(text: str, where: str) -> tuple[int, ...]:
    match = _INDEX.fullmatch(text)
    brackets = [character for character in (text[:1], text[-1:]) if character in "([)]"]
    if match is None or not text or "".join(brackets) not in ("", "()", "[]"):
        raise FaultListError(f'{where}: TensorIndex {text[:40]!r} is no index like "(3, 0, 2, 1)"')
    return tuple(int(part) for part in match[1].split(",") if part.strip())


def _bit(text: str, kind: Kind, where: str) -> int | None:
    if kind not in BIT_KINDS:
        if text:
            raise FaultListError(f"{where}: a {kind} fault takes a Value and no Bit, found Bit {text!r}")
        return None
    if not _INTEGER.fullmatch(text):
        raise FaultListError(f"{where}: Bit {text!r} is no bit number (0 is the least significant)")
    return int(text)


def _value(text: str, kind: Kind, where: str) -> str | None:
    if kind in BIT_KINDS:
        if text:
            raise FaultListError(f"{where}: a {kind} fault takes a Bit and no Value, found Value {text!r}")
        return None
    if kind is Kind.MASK and parse_pattern(text) is None:
        raise FaultListError(f"{where}: a mask fault takes a Value like 0x80000001, found {text!r}")
    if kind is Kind.SET and parse_pattern(text) is None and not is_number(text):
        raise FaultListError(f"{where}: a set fault takes a number or a 0x bit pattern as Value, found {text!r}")
    return text
