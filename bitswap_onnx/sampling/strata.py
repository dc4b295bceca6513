"""Strata of faults: the bits of the tensors that they hold, and the number of faults, by layer and bit."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from bitswap_onnx.errors import BitswapError
from bitswap_onnx.faults.bits import FORMATS
from bitswap_onnx.faults.fault import BIT_KINDS, Kind


@dataclass(frozen=True, slots=True)
class Region:
    """The ``bits`` of one stored tensor that faults are drawn from; they are the same for every element.

    ``layer`` groups regions. ``tensor``: the model's key of the tensor. ``address``: the (layer, parameter) under which
    a fault list finds the tensor, with None for the role weight. ``format``: a name of
    `bitswap_onnx.faults.bits.FORMATS`. ``shape``: the stored layout.
    """

    layer: str
    tensor: str
    address: tuple[str, str | None]
    format: str
    shape: tuple[int, ...]
    bits: tuple[int, ...]

    @property
    def slots(self) -> int:
        """Number of places for a fault: elements times bits."""
        return math.prod(self.shape) * len(self.bits)

    def reached(self, span: int) -> int:
        """Return the number of stored bits that faults of ``span`` neighbouring bits, each the lowest, can hit."""
        return math.prod(self.shape) * len({bit + above for bit in self.bits for above in range(span)})


@dataclass(frozen=True, slots=True)
class Pattern:
    """The form of one injection of a sample: ``multiplicity`` faults, each of one of ``kinds``.

    ``burst``: the faults are neighbouring bits of one element and have the same kind; the lowest bit is one of the
    region. Otherwise the faults are on any distinct bits of the stratum, each with a kind drawn for it. Raises
    BitswapError for kinds other than those of single bits, and for a kind given twice.
    """

    kinds: tuple[Kind, ...] = (Kind.FLIP,)
    multiplicity: int = 1
    burst: bool = False

    def __post_init__(self) -> None:
        if not self.kinds or len(set(self.kinds)) < len(self.kinds) or not BIT_KINDS.issuperset(self.kinds):
            expected = "expected some of flip, stuck_at_0, stuck_at_1, each once"
            raise BitswapError(f"`kinds`: {expected}, found {','.join(self.kinds) or 'none'}")

    @property
    def scattered(self) -> int:
        """The number of places that an injection takes; a burst takes one."""
        return 1 if self.burst else self.multiplicity

    def population(self, slots: int, kinds: int | None = None) -> int:
        """Return the number of different injections on ``slots`` places, with ``kinds`` kinds per place.

        None: the number of the pattern's kinds.
        """
        kinds = len(self.kinds) if kinds is None else kinds
        return math.comb(slots, self.scattered) * int(kinds**self.scattered)


@dataclass(frozen=True, slots=True)
class Stratum:
    """Regions that one sample is drawn from. ``name`` is unique in a list; which faults are drawn depends on it."""

    name: str
    regions: tuple[Region, ...]

    @property
    def slots(self) -> int:
        """Number of places for a fault."""
        return sum(region.slots for region in self.regions)

    @property
    def bits(self) -> tuple[int, ...]:
        """The bits of all regions, ascending."""
        return tuple(sorted({bit for region in self.regions for bit in region.bits}))


def stratify(regions: Sequence[Region], name: Callable[[Region, int], str]) -> tuple[Stratum, ...]:
    """Return the strata of ``regions``: all bits to which ``name`` gives the same name are one stratum."""
    strata: dict[str, list[Region]] = {}
    for region in regions:
        split: dict[str, list[int]] = {}
        for bit in region.bits:
            split.setdefault(name(region, bit), []).append(bit)
        for key, bits in split.items():
            strata.setdefault(key, []).append(replace(region, bits=tuple(bits)))
    return tuple(Stratum(key, tuple(parts)) for key, parts in strata.items())


def bit_group(element_format: str, bit: int) -> str:
    """Return the class of a bit, with the top exponent bit as a class of its own.

    Only a flip of that bit turns a weight below 2 into a huge number.
    """
    fmt = FORMATS[element_format]
    return "top exponent bit" if fmt.is_float and bit == fmt.exponent[-1] else fmt.bit_class(bit)


class StratumPart(NamedTuple):
    """The faults of a ``stratum`` (its number) in a ``layer``, as lists name it: ``each`` faults on every bit."""

    stratum: int
    layer: str
    format: str
    bits: tuple[int, ...]
    each: int


def parts_of(strata: Sequence[Stratum], pattern: Pattern) -> tuple[StratumPart, ...] | None:
    """Return the parts of ``strata``; None for injections of several faults, which may mix layers and bits."""
    if pattern.multiplicity > 1:
        return None
    return tuple(
        StratumPart(number, region.address[0], region.format, region.bits, math.prod(region.shape) * len(pattern.kinds))
        for number, stratum in enumerate(strata)
        for region in stratum.regions
    )
