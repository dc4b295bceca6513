"""Faults and injections, as a list states them: before any model is looked at."""

import operator
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from bitswap_onnx.errors import FaultListError

_Choice = TypeVar("_Choice", bound=StrEnum)
_ID = re.compile(r"[A-Za-z0-9_.-]{1,200}")


class Kind(StrEnum):
    """How a fault changes its element."""

    FLIP = "flip"
    STUCK_AT_0 = "stuck_at_0"
    STUCK_AT_1 = "stuck_at_1"
    MASK = "mask"
    SET = "set"


class Site(StrEnum):
    """Where a fault hits a neuron: behind a layer, or before it (where that layer alone sees it)."""

    OUTPUT = "output"
    INPUT = "input"


#: Kinds that name one bit; the others carry a value for the whole element.
BIT_KINDS = frozenset({Kind.FLIP, Kind.STUCK_AT_0, Kind.STUCK_AT_1})

#: Kinds that may meet an element that already satisfies them; a flip or a mask that changes nothing is an error.
SATISFIABLE_KINDS = frozenset({Kind.STUCK_AT_0, Kind.STUCK_AT_1, Kind.SET})


@dataclass(frozen=True, slots=True)
class Fault:
    """One change of one element of one tensor.

    ``index`` is the element's position in the stored layout of its parameter. ``bit`` counts from the least significant
    bit (0) and belongs to flip and stuck_at faults alone; ``value`` is the text of a mask (``0x...``) or of what is set
    (a number or a ``0x...`` bit pattern). ``parameter`` is a role or a parameter name; None means the role ``weight``.
    ``site`` None: the fault sits in a stored parameter. Otherwise it hits a neuron while the model runs: one element of
    what a layer puts out or takes in, at ``index`` without the batch dimension in the framework's layout, for one
    ``input`` of the dataset (its position) or, with None, for all. ``where`` says where the fault was read
    (``faults.csv:14``) and takes no part in comparisons. Whole numbers of any kind (numpy's too) become Python's; ``kind``
    and ``site`` may be given as text (``"stuck_at_1"``, ``"output"``). Raises FaultListError for other texts.
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
        object.__setattr__(self, "index", tuple(map(operator.index, self.index)))
        if self.bit is not None:
            object.__setattr__(self, "bit", operator.index(self.bit))
        if self.input is not None:
            object.__setattr__(self, "input", operator.index(self.input))

    def __str__(self) -> str:
        """Return the fault in one short phrase, for messages."""
        what = f"bit {self.bit}" if self.kind in BIT_KINDS else self.value
        part = self.parameter if self.site is None else self.site.value
        target = self.layer if part is None else f"{self.layer} ({part})"
        when = "" if self.input is None else f" for input {self.input}"
        return f"{self.kind} {what} of {target}{list(self.index)}{when}"


def _member(choices: type[_Choice], name: str, given: str, where: str) -> _Choice:
    """Return the member of ``choices`` that is ``given`` itself or as text; raises FaultListError."""
    try:
        return choices(given)
    except ValueError:
        place = f"{where}: " if where else ""
        raise FaultListError(f"{place}`{name}`: expected one of {', '.join(choices)}, found {given!r}") from None


@dataclass(frozen=True, slots=True)
class Injection:
    """The faults that are applied together under one id; raises FaultListError for an id that no file name could hold."""

    id: str
    faults: tuple[Fault, ...]

    def __post_init__(self) -> None:
        where = self.faults[0].where + ": " if self.faults and self.faults[0].where else ""
        if not _ID.fullmatch(self.id):
            raise FaultListError(
                f"{where}injection id {self.id[:40]!r} may only have letters, digits, '_', '.' and '-', 200 at most"
            )
        if not self.faults:
            raise FaultListError(f"injection {self.id} has no faults")
