"""Read and write fault lists as CSV, one injection at a time, so that memory does not limit a list's length.

Three kinds of header are read. Ours and dnn-benchmarks': ``Injection,Layer,TensorIndex,Bit`` and optional columns, where
``Index`` may stand for ``TensorIndex``. Names of columns may be written in any case; cells may be separated by semicolons
or tabs. tf_injector's: ``inj_id,target_layer,layer_weigths,bit_pos``, spelt so; its
first row may be ``GOLDEN``. SFIadvancedmodels' for neurons: ``Injection,LayerName,LayerIndex,FeatureMapIndex,Value``; a
row sets one or several elements of a layer's output to a value for every input. Other columns are ignored, so results
files are lists too. Every error names file and line.
"""

import csv
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from bitswap_onnx.errors import FaultListError
from bitswap_onnx.faults.csv_rows import read_rows
from bitswap_onnx.faults.fault import Fault, Injection, Kind
from bitswap_onnx.faults.fault_row import OPTIONAL_COLUMNS, REQUIRED_COLUMNS, Columns, parse_row
from bitswap_onnx.files import replacing


@dataclass(frozen=True)
class FaultList:
    """A fault list on disk. Each iteration reads the file again and yields one `Injection` after the other."""

    path: Path

    def __iter__(self) -> Iterator[Injection]:
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as file:
                yield from injections_of_rows(self.path.name, read_rows(self.path.name, file))
        except UnicodeDecodeError as error:
            is_model = self.path.suffix.lower() == ".onnx"
            advice = "it is a model: the model comes first, then the list" if is_model else "save it as UTF-8"
            raise FaultListError(f"{self.path}: expected UTF-8 text, found {error.reason}; {advice}") from None
        except OSError as error:
            raise FaultListError(f"{self.path}: cannot read the fault list: {error.strerror}") from None

    @property
    def may_have_neurons(self) -> bool:
        """Whether the header has a column that only neuron faults need."""
        with self.path.open(encoding="utf-8-sig", newline="") as file:
            headers = islice(read_rows(self.path.name, file), 1)
            return any(Columns(header, self.path.name).has_sites for _, header in headers)


def read_fault_list(path: str | Path) -> FaultList:
    """Return a fault list after a check of its header and first injection.

    Raises FaultListError for a missing file, a wrong header, a bad first injection or a list without rows. Later rows
    are checked when they are read.
    """
    faults = FaultList(Path(path))
    if next(iter(faults), None) is None:
        raise FaultListError(f"{faults.path}: the fault list has a header but no rows")
    return faults


def has_neurons(injections: Iterable[Injection]) -> bool:
    """Whether some fault of a list hits a neuron; of a list on disk, only the header is read where that is enough."""
    if isinstance(injections, FaultList) and not injections.may_have_neurons:
        return False
    return any(fault.site is not None for injection in injections for fault in injection.faults)


def refuse_neurons(injections: Iterable[Injection], what: str) -> None:
    """Raise FaultListError for the first neuron fault of a list; ``what`` is the message's subject: a comparison."""
    neurons = (fault for injection in injections for fault in injection.faults if fault.site is not None)
    fault = next(neurons, None) if has_neurons(injections) else None
    if fault is not None:
        where = f"{fault.where}: " if fault.where else ""
        raise FaultListError(f"{where}{what} takes faults in stored parameters alone, found {fault}; leave neurons out")


def write_fault_list(path: str | Path, injections: Iterable[Injection], examples: Iterable[Fault] | None = None) -> str:
    """Write injections as a CSV list and return the SHA-256 of `list_fingerprint`.

    The file has the optional columns that ``examples`` need, faults that together need all of them. Without
    ``examples``, ``injections`` is iterated twice, first to find these columns. The file appears whole or not at all.
    Raises RunError if it cannot be written, and FaultListError for a fault that needs another column.
    """
    if examples is None:
        injections = tuple(injections) if isinstance(injections, Iterator) else injections
        examples = (fault for injection in injections for fault in injection.faults)
    needed = {column for fault in examples for column in _optional_columns(fault)}
    columns = [*REQUIRED_COLUMNS, *(name for name in OPTIONAL_COLUMNS if name in needed)]
    digest = ""
    with replacing(Path(path)) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for injection, digest in list_fingerprint(injections):  # noqa: B007
            for fault in injection.faults:
                if not needed.issuperset(_optional_columns(fault)):
                    raise FaultListError(f"{fault.where}: the fault list changed while it was read; run again")
                row = _row(injection.id, fault)
                writer.writerow([row.get(name, "") for name in columns])
    return digest


def _optional_columns(fault: Fault) -> list[str]:
    """Return the optional columns that a fault needs."""
    columns = (
        ("Parameter", fault.parameter),
        ("Kind", fault.kind is not Kind.FLIP),
        ("Value", fault.value),
        ("Site", fault.site),
        ("Input", fault.site),
    )
    return [name for name, is_needed in columns if is_needed]


def list_fingerprint(injections: Iterable[Injection]) -> Iterator[tuple[Injection, str]]:
    """Yield each injection with the SHA-256 of the list up to and including it; the last one identifies the content."""
    digest = hashlib.sha256()
    for injection in injections:
        for fault in injection.faults:
            digest.update(repr((injection.id, *_row(injection.id, fault).values())).encode())
        yield injection, digest.hexdigest()


def _row(injection: str, fault: Fault) -> dict[str, object]:
    row: dict[str, object] = {
        "Injection": injection,
        "Layer": fault.layer,
        "TensorIndex": str(fault.index),
        "Bit": "" if fault.bit is None else fault.bit,
        "Parameter": fault.parameter or "",
        "Kind": fault.kind.value,
        "Value": fault.value or "",
    }
    return row if fault.site is None else row | {"Site": fault.site.value, "Input": _input_text(fault)}


def _input_text(fault: Fault) -> str:
    return "all" if fault.input is None else str(fault.input)


def injections_of_rows(source: str, rows: Iterator[tuple[int, list[str]]]) -> Iterator[Injection]:
    """Yield the injections of numbered rows, the header first: adjacent rows of one id.

    Raises FaultListError, which names ``source`` and row, for a wrong row and for an id that comes back later.
    """
    first_line: dict[str, int] = {}
    current = ""
    faults: list[Fault] = []
    for line, identifier, fault in _faults(source, rows):
        if identifier != current:
            if faults:
                yield Injection(current, tuple(faults))
            if identifier in first_line:
                raise FaultListError(
                    f"{source}:{line}: injection {identifier} stood at line {first_line[identifier]} already; "
                    "put all rows of one injection next to each other, or give this one another id"
                )
            first_line[identifier] = line
            current, faults = identifier, []
        faults.append(fault)
    if faults:
        yield Injection(current, tuple(faults))


def _faults(source: str, rows: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[int, str, Fault]]:
    line, header = next(rows, (0, []))
    if line != 1:
        found = "an empty line" if line else "an empty file"
        raise FaultListError(f"{source}:1: expected a header with {','.join(REQUIRED_COLUMNS)}, found {found}")
    columns = Columns(header, source)
    golden_row = columns.golden_row
    for line, row in rows:
        if golden_row and "GOLDEN" in row[columns.required[0] : columns.required[0] + 1]:
            golden_row = False
            continue
        golden_row = False
        for identifier, fault in parse_row(row, columns, f"{source}:{line}"):
            yield line, identifier, fault
