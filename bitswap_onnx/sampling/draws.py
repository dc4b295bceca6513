"""Draws of faults from a stratum, by default without replacement.

A stratum is a set of numbered faults. A keyed permutation of the numbers decides which of them a sample holds: its
first n images are a simple random sample, in random order and distinct by construction. Memory does not grow with the
stratum, and a larger sample begins with the smaller one. Draws depend only on SHA-256 and on 64-bit integer arithmetic,
not on a random generator of Python or numpy: one seed gives one list, on every machine and version.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, count, islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.errors import BitswapError
from bitswap_onnx.faults.fault import Fault, Injection
from bitswap_onnx.sampling.strata import Pattern, Stratum

DrawOrder = Literal["listed", "drawn", "with_replacement"]
Numbers = NDArray[np.uint64]

#: Rounds of the permutation. A large domain needs few; small ones need more to look random.
_ROUNDS = 24
#: Faults that are computed together.
_PIECE = 1 << 16


@dataclass(frozen=True)
class Sample:
    """A fault list that is drawn when it is iterated: ``sizes`` injections of each of ``strata``, one after the other.

    Every iteration draws the same list. Ids are numbers from 0. Within a stratum the order is random. A stratum that is
    drawn completely is in the order of its regions, elements (row-major), bits and kinds, unless faults are scattered.
    """

    strata: tuple[Stratum, ...]
    sizes: tuple[int, ...]
    pattern: Pattern
    seed: int

    @property
    def examples(self) -> list[Fault]:
        """One fault of every region and kind."""
        regions = (region for stratum in self.strata for region in stratum.regions)
        return [
            Fault(region.address[0], (0,) * len(region.shape), region.bits[0], kind, parameter=region.address[1])
            for region in regions
            for kind in self.pattern.kinds
        ]

    def __iter__(self) -> Iterator[Injection]:
        number = 0
        for stratum, size in zip(self.strata, self.sizes, strict=True):
            for faults in draw(stratum, self.pattern, self.seed, size):
                yield Injection(str(number), faults)
                number += 1


def draw(
    stratum: Stratum, pattern: Pattern, seed: int, stop: int, start: int = 0, *, order: DrawOrder = "listed"
) -> Iterator[tuple[Fault, ...]]:
    """Yield the faults of injections ``start`` to ``stop`` - 1 of the sample that ``seed`` draws from ``stratum``.

    A larger ``stop`` leaves the injections before it as they are; one exception: with the order ``listed``, a complete
    stratum is in its own order. All injections differ, except with the order ``with_replacement``, which draws each
    from the whole stratum and allows one place per injection. With scattered faults (K places per injection), memory
    grows by about 100 bytes per injection. Raises BitswapError where the stratum has fewer than ``stop`` injections,
    except ``with_replacement``.
    """
    population = pattern.population(stratum.slots)
    if stop > population and order != "with_replacement":
        raise BitswapError(
            f"{stratum.name}: expected at most {population:,} injections, as many as it has, found {stop:,}"
        )
    key, width = f"{seed}/{stratum.name}", pattern.scattered
    assert width == 1 or order != "with_replacement", "sets are drawn without replacement"
    if (start, stop) != (0, population) and order == "listed":
        order = "drawn"
    drawn = _singles(population, key, start, stop, order) if width == 1 else _sets(stratum.slots, pattern, key, stop)
    decoded = (_faults(stratum, pattern, numbers) for numbers in drawn)
    sets = (tuple(faults[i : i + width]) for faults in decoded for i in range(0, len(faults), width))
    for faults in sets if width == 1 else islice(sets, start, None):
        yield _burst(faults[0], pattern) if pattern.burst else faults


def permute(numbers: Numbers, size: int, key: str) -> Numbers:
    """Return the images of ``numbers`` (n,), each below ``size`` (at most 2^63), under the permutation of ``key``.

    A Feistel network on the fewest bits that hold ``size`` - 1. Each round changes one half of the bits by a keyed mix
    of the other half (splitmix64's finaliser, doi 10.1145/2714064.2660195; keys from SHA-256). Images outside ``size``
    are permuted again until they are inside (cycle walking, Black and Rogaway 2002, doi 10.1007/3-540-45760-7_9), which
    takes fewer than two passes on average. It is not for secrets; tests show that places and pairs are drawn equally
    often.
    """
    bits = (size - 1).bit_length()
    keys = [np.frombuffer(hashlib.sha256(f"{key}/{r}".encode()).digest()[:8], "<u8") for r in range(_ROUNDS)]
    images = _feistel(numbers.astype(np.uint64), bits, keys)
    while (outside := np.flatnonzero(images >= size)).size:
        images[outside] = _feistel(images[outside], bits, keys)
    return images


def _feistel(values: Numbers, bits: int, keys: Sequence[Numbers]) -> Numbers:
    shift = np.uint64(bits // 2)
    masks = np.uint64((1 << (bits - bits // 2)) - 1), np.uint64((1 << (bits // 2)) - 1)
    high, low = values >> shift, values & masks[1]
    for number, key in enumerate(keys):
        if number % 2:
            low = low ^ (_mix(high + key) & masks[1])
        else:
            high = high ^ (_mix(low + key) & masks[0])
    return (high << shift) | low


def _mix(values: Numbers) -> Numbers:
    """Return 64 bits for each value; every one of them depends on all bits of the value."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _singles(population: int, key: str, start: int, stop: int, order: DrawOrder) -> Iterator[Numbers]:
    """Yield the numbers of faults ``start`` to ``stop`` - 1, in the order of the stratum or a drawn one: pieces (n,).

    With replacement, a fault is the remainder of a number below 2^63; the bias is below population / 2^63.
    """
    for first in range(start, stop, _PIECE):
        numbers = np.arange(first, min(first + _PIECE, stop), dtype=np.uint64)
        match order:
            case "listed":
                yield numbers
            case "drawn":
                yield permute(numbers, population, key)
            case "with_replacement":
                yield permute(numbers, 1 << 63, f"{key}/again") % np.uint64(population)


def _sets(slots: int, pattern: Pattern, key: str, n: int) -> Iterator[Numbers]:
    """Yield ``n`` different sets of faults on distinct places: pieces (sets * size,). All sets are equally likely.

    Each pass makes a new permutation of all places and cuts it into sets; their kinds are drawn too. A set that was
    drawn before is left out, which leaves the others equally likely.
    """
    size, kinds = pattern.multiplicity, len(pattern.kinds)
    per_pass, piece = slots // size, min(n, max(1, _PIECE // size))
    seen: set[bytes] = set()
    pieces = ((turn, first) for turn in count() for first in range(0, per_pass, piece))
    while len(seen) < n:
        turn, first = next(pieces)
        numbers = np.arange(first * size, min(first + piece, per_pass) * size, dtype=np.uint64)
        chosen = permute(numbers, slots, f"{key}/{turn}") * np.uint64(kinds)
        chosen += permute(numbers, 1 << 63, f"{key}/{turn}/kinds") % np.uint64(kinds)
        fresh = []
        for row in np.sort(chosen.reshape(-1, size), axis=1):
            if len(seen) < n and (identity := row.tobytes()) not in seen:
                seen.add(identity)
                fresh.append(row)
        yield np.array(fresh, np.uint64).reshape(-1)


def _faults(stratum: Stratum, pattern: Pattern, numbers: Numbers) -> list[Fault]:
    """Return the single faults of ``numbers`` (n,), which count regions, elements, bits and kinds, kinds fastest."""
    kinds = len(pattern.kinds)
    starts = np.array([0, *accumulate(region.slots * kinds for region in stratum.regions)], np.uint64)
    places = np.searchsorted(starts, numbers, side="right") - 1
    faults: dict[int, Fault] = {}
    for place in np.unique(places).tolist():
        region, members = stratum.regions[place], np.flatnonzero(places == place)
        slots, kind = np.divmod((numbers[members] - starts[place]).astype(np.int64), kinds)
        elements, bits = np.divmod(slots, len(region.bits))
        axes = [axis.tolist() for axis in np.unravel_index(elements, region.shape)] if region.shape else []
        indices = list(zip(*axes, strict=True)) if axes else [()] * len(members)
        layer, parameter = region.address
        for member, index, bit, which in zip(members.tolist(), indices, bits.tolist(), kind.tolist(), strict=True):
            faults[member] = Fault(layer, index, region.bits[bit], pattern.kinds[which], parameter=parameter)
    return [faults[member] for member in range(len(numbers))]


def _burst(fault: Fault, pattern: Pattern) -> tuple[Fault, ...]:
    """Return the faults of a burst whose lowest bit is that of ``fault``."""
    assert fault.bit is not None
    higher_bits = range(fault.bit + 1, fault.bit + pattern.multiplicity)
    return (
        fault,
        *(Fault(fault.layer, fault.index, bit, fault.kind, parameter=fault.parameter) for bit in higher_bits),
    )
