"""Faults and injections, as a list states them: before any model is looked at."""

from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    """How a fault changes its element."""

    FLIP = "flip"
    STUCK_AT_0 = "stuck_at_0"
    STUCK_AT_1 = "stuck_at_1"
    MASK = "mask"
    SET = "set"


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
    ``where`` says where the fault was read (``faults.csv:14``) and takes no part in comparisons.
    """

    layer: str
    index: tuple[int, ...]
    bit: int | None = None
    kind: Kind = Kind.FLIP
    value: str | None = None
    parameter: str | None = None
    where: str = field(default="", compare=False)

    def __str__(self) -> str:
        """Return the fault in one short phrase, for messages."""
        what = f"bit {self.bit}" if self.kind in BIT_KINDS else self.value
        target = self.layer if self.parameter is None else f"{self.layer} ({self.parameter})"
        return f"{self.kind} {what} of {target}{list(self.index)}"


@dataclass(frozen=True, slots=True)
class Injection:
    """The faults that are applied together under one id."""

    id: str
    faults: tuple[Fault, ...]
