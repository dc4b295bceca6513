"""The bits of a model that faults are drawn from, as regions, and how far a flip of each bit moves its weights."""

import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.errors import BitswapError, ModelError
from bitswap_onnx.faults.bits import BIT_CLASSES, FORMATS, BitFormat, Bits, from_bits, to_bits
from bitswap_onnx.graph.coverage import Coverage, coverage
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.resolve import Resolver
from bitswap_onnx.graph.targets import Target, select_targets
from bitswap_onnx.sampling.strata import Region

#: Elements of a tensor that are read together.
_PIECE = 1 << 18
_BITS = re.compile(r"([0-9]{1,3})(?:-([0-9]{1,3}))?")


def find_population(
    model: Model,
    layers: str | None = None,
    exclude: str | None = None,
    parameters: str = "weight",
    bits: str | None = None,
    span: int = 1,
) -> tuple[Region, ...]:
    """Return the regions of the stored parameters that pass the filters, in graph order.

    ``layers`` and ``exclude``: patterns of `select_targets`. ``parameters``: roles, or names of parameters where the
    model has no such role. ``bits``: numbers, ranges and classes (``0-7,30,sign``), None for all. ``span``: the number
    of neighbouring bits of a fault, all of which must be selected; the region holds the lowest of them. Raises
    BitswapError where a filter matches nothing, or where no bit is left.
    """
    resolver = Resolver(model)
    chosen = {target.tensor for target in select_targets(model, layers)}
    if exclude is not None:
        chosen -= {target.tensor for target in select_targets(model, exclude)}
    named = _with_parameters(model, resolver.targets, parameters)
    targets = [target for target in named if target.tensor in chosen and target.elements]
    selected = _select_bits(bits, {target.dtype for target in targets})
    regions = []
    for target in targets:
        allowed = selected[target.dtype]
        starts = tuple(bit for bit in sorted(allowed) if allowed.issuperset(range(bit, bit + span)))
        if starts:
            layer, parameter = resolver.address(target)
            address = layer, None if parameter == target.role == "weight" else parameter
            regions.append(Region(target.layer, target.tensor, address, target.dtype, target.shape, starts))
    if not regions:
        widest = max((FORMATS[target.dtype].width for target in targets), default=0)
        if span > widest > 0:
            raise BitswapError(
                f"`multiplicity`: expected at most {widest} bits of one element for a burst, found {span}"
            )
        what = f"{span} neighbouring bits" if span > 1 else "a bit"
        raise BitswapError(
            f"{model.name}: expected {what} to draw faults from, found none; change `layers`, `parameters` or `bits`"
        )
    return tuple(regions)


def population_coverage(model: Model, regions: Iterable[Region], span: int = 1) -> Coverage:
    """Return how many of the model's stored bits ``regions`` are; ``span`` is that of `find_population`."""
    return coverage(model, {region.tensor: region.reached(span) for region in regions})


def bit_distances(model: Model, regions: Iterable[Region]) -> dict[str, NDArray[np.float64]]:
    """Return, by format, how far a flip of each bit moves the weights of ``regions`` on average, (width,).

    The mean of |w - w with that bit flipped| over all weights w is the mean over flips 0 → 1 and 1 → 0, weighted by the
    number of weights with the bit at 0 and at 1. A flip to NaN or infinity counts as the format's largest number.
    Tensors are read in pieces; arithmetic is in float64.
    """
    totals: dict[str, NDArray[np.float64]] = {}
    counts: dict[str, int] = {}
    for region in regions:
        fmt = FORMATS[region.format]
        elements = to_bits(model.tensor(region.tensor)).reshape(-1)
        total = totals.setdefault(fmt.name, np.zeros(fmt.width))
        for first in range(0, len(elements), _PIECE):
            with np.errstate(all="ignore"):
                total += _distances(np.array(elements[first : first + _PIECE]), fmt)
        counts[fmt.name] = counts.get(fmt.name, 0) + len(elements)
    return {name: total / counts[name] for name, total in totals.items()}


def _distances(bits: Bits, fmt: BitFormat) -> NDArray[np.float64]:
    """Return the sum, over all numbers, of the distance that a flip of each bit moves them, (width,).

    Formats of up to 8 bits have so few numbers that each one is counted. Among longer floats with the same exponent, the
    distance is constant or linear in the mantissa. So the distances at two mantissas and the sum of all mantissas give
    the sum.
    """
    every = range(fmt.width)
    if fmt.width <= 8:
        numbers = np.arange(1 << fmt.width, dtype=bits.dtype)
        times = np.bincount(bits, minlength=len(numbers))
        return np.array([times @ _distance(numbers, bit, fmt) for bit in every])
    if not fmt.is_float:
        return np.array([_distance(bits, bit, fmt).sum() for bit in every])
    kind, start = bits.dtype.type, fmt.exponent.start
    exponents = np.arange(1 << len(fmt.exponent), dtype=bits.dtype)
    half, least = kind(1 << start - 1), exponents << kind(start)
    of_each = ((bits >> kind(start)) & exponents[-1]).astype(np.intp)
    counts = np.bincount(of_each, minlength=len(exponents))
    halves = np.bincount(of_each, (bits & kind((1 << start) - 1)) / half, len(exponents))
    at_zero, at_middle = ([_distance(ones, bit, fmt) for bit in every] for ones in (least, least | half))
    return np.array(
        [(counts * zero + halves * (middle - zero)).sum() for zero, middle in zip(at_zero, at_middle, strict=True)]
    )


def _distance(bits: Bits, bit: int, fmt: BitFormat) -> NDArray[np.float64]:
    """Return how far a flip of ``bit`` moves each number, (numbers,)."""
    clean = from_bits(bits, fmt).astype(np.float64)
    distance = np.abs(from_bits(bits ^ bits.dtype.type(1 << bit), fmt).astype(np.float64) - clean)
    return np.where(np.isfinite(distance), distance, float(fmt.limits.max))


def _with_parameters(model: Model, targets: Sequence[Target], text: str) -> list[Target]:
    chosen: set[str] = set()
    for name in filter(None, (part.strip() for part in text.split(","))):
        named = {t.tensor for t in targets if t.role == name} or {t.tensor for t in targets if t.parameter == name}
        if not named:
            if not targets:
                raise ModelError(f"{model.name}: the model stores no parameter that faults can hit")
            has = ", ".join(sorted({target.role for target in targets}))
            raise ModelError(f"{model.name}: no parameter has the role or the name {name!r}; there are the roles {has}")
        chosen |= named
    return [target for target in targets if target.tensor in chosen]


def _select_bits(text: str | None, formats: Iterable[str]) -> dict[str, set[int]]:
    """Return the selected bits of every format; raises BitswapError for a bit or class that no format has."""
    known = {name: set(range(FORMATS[name].width)) for name in formats}
    if text is None:
        return known
    chosen: dict[str, set[int]] = {name: set() for name in known}
    for part in (part.strip() for part in text.split(",")):
        wanted = {name: _bits_of(part, FORMATS[name]) for name in known}
        missing = set().union(*wanted.values()) - set().union(*known.values())
        if known and (missing or not any(wanted.values())):
            has = ", ".join(f"0-{FORMATS[name].width - 1} of {name}" for name in sorted(known))
            raise BitswapError(f"`bits`: expected bits that the parameters have ({has}), found {part!r}")
        for name, bits in wanted.items():
            chosen[name] |= bits & known[name]
    return chosen


def _bits_of(part: str, fmt: BitFormat) -> set[int]:
    """Return the bits of one number, range or class in ``fmt``; numbers may exceed its width."""
    if part in BIT_CLASSES:
        return {bit for bit in range(fmt.width) if fmt.bit_class(bit) == part}
    match = _BITS.fullmatch(part)
    if match is None or int(match[2] or match[1]) < int(match[1]):
        raise BitswapError(
            f"`bits`: expected numbers, ranges and {', '.join(BIT_CLASSES)}, like 0-7,30, found {part!r}"
        )
    return set(range(int(match[1]), int(match[2] or match[1]) + 1))
