"""Faults that a Python caller gives: the path of a list, injections, faults, or a pandas DataFrame with a list's columns."""

from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any

from bitswap_onnx.errors import FaultListError, shown
from bitswap_onnx.faults.fault import Fault, Injection
from bitswap_onnx.faults.fault_list import FaultList, injections_of_rows, read_fault_list

#: Where messages say that such faults are.
_IN_MEMORY = "`faults`"


def given_faults(faults: object) -> FaultList | tuple[Injection, ...]:
    """Return the injections that a caller gave.

    ``faults``: the path of a fault list, a `FaultList`, a DataFrame with the columns of a list, or `Injection` and `Fault`
    objects, where a fault is an injection of its own whose id is its place, from 0. Raises FaultListError for anything else,
    and as `read_fault_list` does.
    """
    if isinstance(faults, str | PathLike):
        return read_fault_list(Path(faults))
    if isinstance(faults, FaultList):
        return read_fault_list(faults.path)
    if isinstance(faults, Injection | Fault):
        faults = (faults,)
    if hasattr(faults, "columns") and hasattr(faults, "itertuples"):
        return tuple(injections_of_rows(_IN_MEMORY, _rows(faults)))
    found: object = faults
    if isinstance(faults, Iterable) and not isinstance(faults, bytes | dict):
        elements = tuple(faults)
        found = next((element for element in elements if not isinstance(element, Injection | Fault)), None)
        if found is None:
            return tuple(
                Injection(str(place), (element,)) if isinstance(element, Fault) else element
                for place, element in enumerate(elements)
            )
    raise FaultListError(
        f"{_IN_MEMORY}: expected the path of a fault list, Fault or Injection objects, or a DataFrame with a list's "
        f'columns, found {shown(found)}; one fault is Fault("conv", (0, 0, 2, 1), 30)'
    )


def _rows(frame: Any) -> Iterator[tuple[int, list[str]]]:
    """Yield the header and the rows of a DataFrame as a file has them, each with its number; the header is number 1."""
    yield 1, [str(name) for name in frame.columns]
    for number, row in enumerate(frame.itertuples(index=False, name=None), 2):
        yield number, ["" if cell is None else str(cell) for cell in row]
