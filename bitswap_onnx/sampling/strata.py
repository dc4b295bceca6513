"""What strata hold, by layer and bit: how many faults of a group there are, whatever a draw found of it."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from bitswap_onnx.sampling.draws import Pattern, Stratum


class Part(NamedTuple):
    """Faults of one ``stratum`` (its number) in one ``layer``, as lists name it: ``each`` on every one of ``bits``."""

    stratum: int
    layer: str
    format: str
    bits: tuple[int, ...]
    each: int


def parts_of(strata: Sequence[Stratum], pattern: Pattern) -> tuple[Part, ...] | None:
    """Return what ``strata`` hold, None where an injection has several faults: those may be of several layers and bits."""
    if pattern.multiplicity > 1:
        return None
    return tuple(
        Part(number, region.address[0], region.format, region.bits, math.prod(region.shape) * len(pattern.kinds))
        for number, stratum in enumerate(strata)
        for region in stratum.regions
    )
