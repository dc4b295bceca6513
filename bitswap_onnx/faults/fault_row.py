"""One row of a fault list: the columns that a header has, and the fault that a row's cells describe.

Every error names file and line.
"""

import re
from collections.abc import Iterable, Iterator

from bitswap_onnx.errors import FaultListError
from bitswap_onnx.faults.bits import is_number, parse_pattern
from bitswap_onnx.faults.fault import BIT_KINDS, Fault, Kind, Site

REQUIRED_COLUMNS = ("Injection", "Layer", "TensorIndex", "Bit")
OPTIONAL_COLUMNS = ("Parameter", "Kind", "Value", "Site", "Input")
TF_INJECTOR = ("inj_id", "target_layer", "layer_weigths", "bit_pos")
SFI_NEURONS = ("Injection", "LayerName", "FeatureMapIndex", "Value")

_INDEX = re.compile(r"[(\[ ]*((?:[0-9]{1,18}(?:\s*,\s*[0-9]{1,18})*\s*,?)?)\s*[)\]]?")
_INTEGER = re.compile(r"[0-9]{1,9}")
#: A whole number as a table writes it whose column has an empty cell, and as NumPy 2 writes it.
_WHOLE_FLOAT = re.compile(r"([0-9]{1,9})\.0*")
_NUMPY_INTEGER = re.compile(r"(?:np\.|numpy\.)?u?int[0-9]{0,2}\(([0-9]{1,18})\)")
#: What tables write into empty cells.
_EMPTY = frozenset(("nan", "none", "null", "<na>"))
#: Characters of a layer's or a parameter's name, at most.
_LONGEST_NAME = 500
_TUPLE = re.compile(r"\([^()]*\)")
_KINDS = {kind.value: kind for kind in Kind}
_SITES = {site.value: site for site in Site}


def _folded(name: str) -> str:
    """Return a column's name without what people write in different ways."""
    return re.sub(r"[\s_-]", "", name.casefold())


def column_names(header: list[str], more: Iterable[str] = ()) -> list[str]:
    """Return the names of a header as we write them; ``more`` are names beside those of lists.

    A name in another spelling stays as it is where the header has the right one too.
    """
    names = [name.strip() for name in header]
    known = {
        folded: name
        for folded, name in {**_COLUMNS, **{_folded(name): name for name in more}}.items()
        if name not in names
    }
    return [known.get(_folded(name), name) for name in names]


_COLUMNS = {_folded(name): name for name in (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS, *TF_INJECTOR, *SFI_NEURONS)}


def _filled(text: str) -> str:
    """Return a cell, empty if a table wrote there that it is."""
    return "" if text.casefold() in _EMPTY else text


class Columns:
    """The positions of one file's columns; an absent optional column reads as an empty cell.

    Names may be written in any case, and with blanks, ``_`` or ``-`` (``tensor_index``). ``neurons``: the file is a neuron
    list of SFIadvancedmodels. ``golden_row``: its first row may be ``GOLDEN``, as in tf_injector's files. Raises
    FaultListError for a header that lacks a column or has one twice.
    """

    def __init__(self, header: list[str], source: str) -> None:
        names = column_names(header)
        if "TensorIndex" not in names:
            names = ["TensorIndex" if name.casefold() == "index" else name for name in names]
        dialects = ((TF_INJECTOR, TF_INJECTOR[0]), (SFI_NEURONS, SFI_NEURONS[2]))
        others = (columns for columns, mark in dialects if mark in names and not set(REQUIRED_COLUMNS) <= set(names))
        required = next(others, REQUIRED_COLUMNS)
        missing = [name for name in required if name not in names]
        if missing:
            found = ",".join(name.strip() for name in header)[:80]
            raise FaultListError(
                f"{source}:1: expected a header with {','.join(REQUIRED_COLUMNS)}; "
                f"missing {', '.join(missing)}, found {found!r}"
            )
        self.neurons = required is SFI_NEURONS
        doubled = sorted({name for name in names if name in (*required, *OPTIONAL_COLUMNS) and names.count(name) > 1})
        if doubled:
            raise FaultListError(f"{source}:1: column {doubled[0]} stands twice in the header; keep one")
        self.width = 1 + max(names.index(name) for name in required)
        self.required = tuple(names.index(name) for name in required)
        self.optional = tuple(names.index(name) if name in names else None for name in OPTIONAL_COLUMNS)
        self.golden_row = required is TF_INJECTOR

    def cells(self, row: list[str], where: str) -> tuple[list[str], list[str]]:
        """Return the required cells (id, layer, ...) and the optional ones; raises FaultListError for a short row."""
        if len(row) < self.width:
            raise FaultListError(
                f"{where}: expected at least {self.width} cells, found {len(row)}: {','.join(row)[:80]!r}"
            )
        if not row[self.required[1]].strip():
            raise FaultListError(f"{where}: expected a layer name, found an empty cell")
        required = [row[i].strip() for i in self.required]
        optional = ["" if i is None or i >= len(row) else row[i].strip() for i in self.optional]
        name = max(required[1], optional[0], key=len)
        if len(name) > _LONGEST_NAME:
            raise FaultListError(
                f"{where}: expected a layer and a parameter of at most {_LONGEST_NAME} characters, found {len(name):,}: "
                f"{name[:40]!r}..."
            )
        if not self.neurons:
            required[3] = _filled(required[3])
        return required, [
            text if name == "Value" else _filled(text) for name, text in zip(OPTIONAL_COLUMNS, optional, strict=True)
        ]

    @property
    def has_sites(self) -> bool:
        """Whether a column has what only neuron faults need."""
        return self.neurons or self.optional[OPTIONAL_COLUMNS.index("Site")] is not None


def parse_row(row: list[str], columns: Columns, where: str) -> Iterable[tuple[str, Fault]]:
    """Return the (injection id, fault) pairs of a row; raises FaultListError, with ``where``, for a wrong cell.

    ``where`` is the row's file and line. A row of a neuron list may have several faults, any other has one.
    """
    return _parse_neurons(row, columns, where) if columns.neurons else (_parse(row, columns, where),)


def _parse(row: list[str], columns: Columns, where: str) -> tuple[str, Fault]:
    (identifier, layer, index, bit), (parameter, kind, value, site, inputs) = columns.cells(row, where)
    fault_kind = _kind(kind, where)
    fault = Fault(
        layer=layer,
        index=_index(index, where),
        bit=_bit(bit, fault_kind, where),
        kind=fault_kind,
        value=_value(value, fault_kind, where),
        parameter=parameter or None,
        site=_site(site, where),
        input=_input(inputs, where),
        where=where,
    )
    if fault.site is None and inputs:
        raise FaultListError(
            f"{where}: Input {inputs[:40]!r} needs a neuron; give a Site, output or input, or leave Input empty"
        )
    if fault.site is not None and parameter:
        raise FaultListError(
            f"{where}: a neuron (Site {site}) has no Parameter, found {parameter!r}; leave one of them empty"
        )
    return identifier, fault


def _parse_neurons(row: list[str], columns: Columns, where: str) -> Iterator[tuple[str, Fault]]:
    """Yield the faults of a row of SFIadvancedmodels' neuron list: one index and one value, or a list of each."""
    (identifier, layer, places, values), _ = columns.cells(row, where)
    indices = _TUPLE.findall(places) or [places.strip("[] ")]
    numbers = [text.strip() for text in values.strip("[] ").split(",")]
    if len(indices) != len(numbers):
        raise FaultListError(f"{where}: expected a Value per FeatureMapIndex, found {len(indices)} and {len(numbers)}")
    for index, number in zip(indices, numbers, strict=True):
        yield (
            identifier,
            Fault(
                layer=layer,
                index=_index(index, where),
                kind=Kind.SET,
                value=_value(number, Kind.SET, where),
                site=Site.OUTPUT,
                where=where,
            ),
        )


def _site(text: str, where: str) -> Site | None:
    if text and text not in _SITES:
        raise FaultListError(
            f"{where}: Site {text[:40]!r} is none of {', '.join(_SITES)}; leave it empty for a parameter"
        )
    return _SITES.get(text)


def _input(text: str, where: str) -> int | None:
    if text in ("", "all"):
        return None
    number = _whole(text)
    if number is None:
        raise FaultListError(f"{where}: Input {text[:40]!r} is neither all nor the number of an input, from 0")
    return number


def _whole(text: str) -> int | None:
    """Return a whole number, which may be written as 30 or 30.0; None for anything else."""
    text = _NUMPY_INTEGER.sub(r"\1", text)
    match = _WHOLE_FLOAT.fullmatch(text)
    text = match[1] if match else text
    return int(text) if _INTEGER.fullmatch(text) else None


def _kind(text: str, where: str) -> Kind:
    if not text:
        return Kind.FLIP
    if text not in _KINDS:
        raise FaultListError(f"{where}: Kind {text[:40]!r} is none of {', '.join(_KINDS)}")
    return _KINDS[text]


def _index(text: str, where: str) -> tuple[int, ...]:
    text = _NUMPY_INTEGER.sub(r"\1", text)
    match = _INDEX.fullmatch(text)
    brackets = [character for character in (text[:1], text[-1:]) if character in "([)]"]
    if match is None or not text or "".join(brackets) not in ("", "()", "[]"):
        cut = text[:1] in ("(", "[") and text[-1:] not in (")", "]")
        advice = "; it ends at a comma: put it in quotes" if cut else ""
        raise FaultListError(f'{where}: TensorIndex {text[:40]!r} is no index like "(3, 0, 2, 1)"{advice}')
    return tuple(int(part) for part in match[1].split(",") if part.strip())


def _bit(text: str, kind: Kind, where: str) -> int | None:
    if kind not in BIT_KINDS:
        if text:
            raise FaultListError(f"{where}: a {kind} fault takes a Value and no Bit, found Bit {text[:40]!r}")
        return None
    number = _whole(text)
    if number is None:
        several = len(re.findall("[0-9]+", text)) > 1 and re.fullmatch(r"[0-9\s,;:|()\[\]+-]+", text)
        advice = "; write a row for each bit, one below the other with the same Injection" if several else ""
        raise FaultListError(f"{where}: Bit {text[:40]!r} is no bit number (0 is the least significant){advice}")
    return number


def _value(text: str, kind: Kind, where: str) -> str | None:
    if kind in BIT_KINDS:
        if _filled(text):
            raise FaultListError(f"{where}: a {kind} fault takes a Bit and no Value, found Value {text[:40]!r}")
        return None
    if kind is Kind.MASK and parse_pattern(text) is None:
        raise FaultListError(f"{where}: a mask fault takes a Value like 0x80000001, found {text[:40]!r}")
    if kind is Kind.SET and parse_pattern(text) is None and not is_number(text):
        raise FaultListError(f"{where}: a set fault takes a number or a 0x bit pattern as Value, found {text[:40]!r}")
    return text
