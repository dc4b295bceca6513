"""Faults and injections as a fault list states them, not yet checked against a model."""

import operator
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, TypeVar

from bitswap_onnx.errors import FaultListError

_Choice = TypeVar("_Choice", bound=StrEnum)
#: Bit 0 in a list is the least significant bit, or the sign.
BitOrder = Literal["lsb", "msb"]

_ID = re.compile(r"[A-Za-z0-9_.-]{1,200}")


class Kind(StrEnum):
    """How a fault changes its element."""

    FLIP = "flip"
    STUCK_AT_0 = "stuck_at_0"
    STUCK_AT_1 = "stuck_at_1"
    MASK = "mask"
    SET = "set"


class Site(StrEnum):
    """The neurons that a fault hits: a layer's output, or its input, where only that layer sees the fault."""

    OUTPUT = "output"
    INPUT = "input"


#: Kinds that change one bit; the others have a value for the whole element.
BIT_KINDS = frozenset({Kind.FLIP, Kind.STUCK_AT_0, Kind.STUCK_AT_1})

#: Kinds that an element may already satisfy; a flip or a mask that changes nothing is an error.
SATISFIABLE_KINDS = frozenset({Kind.STUCK_AT_0, Kind.STUCK_AT_1, Kind.SET})


@dataclass(frozen=True, slots=True)
class Fault:
    """One change of one element of one tensor.

    ``bit`` is the bit number of a flip or stuck_at fault, 0 the least significant; None for other kinds. ``value`` is
    the text of a mask (``0x...``) or of a set fault (a number or a ``0x...`` bit pattern); None for other kinds.

    ``site`` None: the fault hits a stored parameter. ``parameter`` is its role or its name, None for the role
    ``weight``; ``index`` is in its stored layout. Otherwise the fault hits a neuron while the model runs: one element
    of a layer's output or input, at ``index`` without the batch dimension, in the framework's layout. It acts for one
    ``input`` of the dataset (its position, from 0), or for all with None.

    ``where`` is the place that the fault was read from (``faults.csv:14``); comparisons ignore it. Integers of other
    types, such as numpy's, are converted to int. ``kind`` and ``site`` are also taken as text (``"stuck_at_1"``,
    ``"output"``). Raises FaultListError for other texts, and for numbers that are not whole.
    """

    layer: str
    index: tuple[int, ...]
    bit: int | None = None
    kind: Kind = Kind.FLIP
    value: str | None = None
    parameter: str | None = None
    site: Site | None = None
    input: int | None = None
    where: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.kind, Kind):
            object.__setattr__(self, "kind", _member(Kind, "kind", self.kind, self.where))
        if self.site is not None and not isinstance(self.site, Site):
            object.__setattr__(self, "site", _member(Site, "site", self.site, self.where))
        try:
            object.__setattr__(self, "index", tuple(map(operator.index, self.index)))
            if self.bit is not None:
                object.__setattr__(self, "bit", operator.index(self.bit))
            if self.input is not None:
                object.__setattr__(self, "input", operator.index(self.input))
        except TypeError:
            numbers = f"`index` {self.index!r}, `bit` {self.bit!r}, `input` {self.input!r}"
            raise FaultListError(f"expected whole numbers, `index` a tuple of them, found {numbers}") from None

    def __str__(self) -> str:
        """Return the fault in one short phrase, for messages."""
        change = f"bit {self.bit}" if self.kind in BIT_KINDS else self.value
        name = self.parameter if self.site is None else self.site.value
        target = self.layer if name is None else f"{self.layer} ({name})"
        inputs = "" if self.input is None else f" for input {self.input}"
        return f"{self.kind} {change} of {target}{list(self.index)}{inputs}"


#: Name in a text of kinds → the kinds that it stands for.
KIND_NAMES = {"stuck_at": (Kind.STUCK_AT_0, Kind.STUCK_AT_1), **{k.value: (k,) for k in Kind if k in BIT_KINDS}}


def parse_kinds(kinds: str | Iterable[Kind | str]) -> tuple[Kind, ...]:
    """Return the kinds named in a text like ``flip,stuck_at``, or one by one; raises FaultListError for other names."""
    names = [part.strip() for part in kinds.split(",")] if isinstance(kinds, str) else list(kinds)
    unknown = next((name for name in names if name not in KIND_NAMES), None)
    if unknown is not None:
        raise FaultListError(
            f"`kinds`: expected some of {', '.join(KIND_NAMES)}, separated by commas, found {unknown!r}"
        )
    return tuple(kind for name in names for kind in KIND_NAMES[name])


def _member(choices: type[_Choice], name: str, given: str, where: str) -> _Choice:
    """Return the member of ``choices`` that is ``given`` itself or as text; raises FaultListError."""
    try:
        return choices(given)
    except ValueError:
        place = f"{where}: " if where else ""
        raise FaultListError(f"{place}`{name}`: expected one of {', '.join(choices)}, found {given!r}") from None


@dataclass(frozen=True, slots=True)
class Injection:
    """The faults that are applied together under one ``id``.

    Raises FaultListError for an id that does not fit into a file name, and for an injection without faults.
    """

    id: str
    faults: tuple[Fault, ...]

    def __post_init__(self) -> None:
        where = self.faults[0].where + ": " if self.faults and self.faults[0].where else ""
        if not _ID.fullmatch(self.id):
            raise FaultListError(
                f"{where}expected an injection id of 1 to 200 letters, digits, '_', '.', '-', found {self.id[:40]!r}"
            )
        if not self.faults:
            raise FaultListError(f"injection {self.id} has no faults; give it at least one")
