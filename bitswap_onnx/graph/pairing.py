"""Which target of one model is which of another: paired by content, bit for bit, whatever names and layouts say.

Two targets are partners when the bits of one are the bits of the other with its axes permuted (axes of length one may
come and go: ``(O, I, 1, 1)`` and ``(I, O)`` are one kernel). Bits are compared as unsigned integers, so NaN and -0 count
as what they are. Targets whose bits occur once on each side are sure; equal ones are told apart in this order:

1. by layer: the partner lies in the layer that holds the partners of its neighbours, in the same role;
2. by graph order, among equal targets of the same role, then of any role, and only where both models have as many.

Where several axis orders give the same bits (symmetric or constant tensors), the one that fits most pairs of the same
rank and role is taken, else the first. What graph order or the first axis order decided is noted on the pair.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.faults.bits import Bits, to_bits
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.targets import Target, find_targets
from bitswap_onnx.graph.tensors import read_tensor, stored_tensors

AxisOrder = tuple[int, ...]

_CHUNK = 1 << 20
_PROBE = 256


@dataclass(frozen=True, slots=True)
class TargetPair:
    """A target and its partner in the other model.

    ``axes``: axes of length one aside, axis i of ``partner`` is axis ``axes[i]`` of ``source``. ``note`` says what
    decided between equal choices, empty where there were none.
    """

    source: Target
    partner: Target
    axes: AxisOrder
    note: str = ""

    def index(self, index: tuple[int, ...]) -> tuple[int, ...]:
        """Return where the element ``index`` of ``source`` lies in ``partner``."""
        long = [i for i, length in zip(index, self.source.shape, strict=True) if length != 1]
        moved = iter([long[axis] for axis in self.axes])
        return tuple(next(moved) if length != 1 else 0 for length in self.partner.shape)


@dataclass(frozen=True, slots=True)
class Pairing:
    """Pairs by the source's tensor key; ``unpaired`` says why a target has no partner, by tensor key."""

    pairs: dict[str, TargetPair]
    unpaired: dict[str, str]


def pair_targets(source: Model, partner: Model) -> Pairing:
    """Pair every target of ``source`` with the target of ``partner`` that holds the same bits."""
    left, right = _Side(source), _Side(partner)
    classes, unpaired = _equal_classes(left, right)
    matches, ambiguous = _match(classes)
    orders = {a.tensor: _orders(left.bits(a), right.bits(b)) for a, b, _ in matches}
    votes: dict[tuple[int, int, str], Counter[AxisOrder]] = defaultdict(Counter)
    for a, b, _ in matches:
        votes[_kind(a, b)].update(orders[a.tensor])
    pairs = {a.tensor: _pair(a, b, note, orders[a.tensor], votes[_kind(a, b)]) for a, b, note in matches}
    return Pairing(pairs, unpaired | ambiguous)


class _Side:
    """One model: its targets in graph order and their bits, read when they are asked for."""

    def __init__(self, model: Model) -> None:
        self.targets = [target for target in find_targets(model) if target.elements]
        self._tensors = stored_tensors(model.proto)
        self._folder = model.folder

    def bits(self, target: Target) -> Bits:
        return to_bits(read_tensor(self._tensors[target.tensor], self._folder))


@dataclass(slots=True)
class _Class:
    """Targets of both models that hold the same bits up to the order of their axes; each list in graph order."""

    left: list[Target]
    right: list[Target]


_Match = tuple[Target, Target, str]


def _equal_classes(left: _Side, right: _Side) -> tuple[list[_Class], dict[str, str]]:
    """Bucket by dtype, lengths and a hash that no order changes; then compare exactly inside each bucket."""
    there = {_outline(target) for target in right.targets}
    buckets: dict[tuple[object, ...], list[tuple[Bits, _Class]]] = defaultdict(list)
    unpaired: dict[str, str] = {}
    for target in left.targets:
        if _outline(target) in there:
            _class_of(left.bits(target), target, buckets).left.append(target)
        else:
            unpaired[target.tensor] = "no parameter of its dtype and shape"
    for target in right.targets:
        _class_of(right.bits(target), target, buckets).right.append(target)
    classes = [entry for bucket in buckets.values() for _, entry in bucket]
    lonely = [target for entry in classes if not entry.right for target in entry.left]
    unpaired |= {target.tensor: "no parameter with its bits" for target in lonely}
    return [entry for entry in classes if entry.left and entry.right], unpaired


def _class_of(bits: Bits, target: Target, buckets: dict[tuple[object, ...], list[tuple[Bits, _Class]]]) -> _Class:
    bucket = buckets[*_outline(target), multiset_hash(bits)]
    for other, entry in bucket:
        if _orders(other, bits, at_most=1):
            return entry
    bucket.append((bits, _Class([], [])))
    return bucket[-1][1]


def _outline(target: Target) -> tuple[str, tuple[int, ...]]:
    return target.dtype, tuple(sorted(length for length in target.shape if length != 1))


def multiset_hash(bits: Bits) -> int:
    """Return 64 bits that depend on which elements an array holds and how often, not on their order.

    The sum of every element's hash (SplitMix64's finaliser; Steele, Lea and Flood, OOPSLA 2014) modulo 2^64.
    """
    flat = bits.reshape(-1)
    total = 0
    for first in range(0, flat.size, _CHUNK):
        x = flat[first : first + _CHUNK].astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        total += int((x ^ (x >> np.uint64(31))).sum(dtype=np.uint64))
    return total % (1 << 64)


def _match(classes: Iterable[_Class]) -> tuple[list[_Match], dict[str, str]]:
    """Decide which target of a class is whose partner; also say which stay without one, and why."""
    matches = [(entry.left[0], entry.right[0], "") for entry in classes if len(entry.left) == len(entry.right) == 1]
    neighbours: dict[str, Counter[str]] = defaultdict(Counter)
    for a, b, _ in matches:
        neighbours[a.layer][b.layer] += 1
    layers = {layer: counts.most_common(1)[0][0] for layer, counts in neighbours.items()}
    unpaired: dict[str, str] = {}
    for entry in classes:
        if len(entry.left) == len(entry.right) == 1:
            continue
        rest = _by_layer(entry, layers, matches)
        for key in (lambda target: target.role, lambda target: ""):
            rest = _by_order(rest, key, matches)
        sizes = f"{len(entry.left)} parameters with equal bits here, {len(entry.right)} there"
        unpaired |= {target.tensor: sizes for target in rest.left}
    return matches, unpaired


def _by_layer(entry: _Class, layers: dict[str, str], matches: list[_Match]) -> _Class:
    """Match the targets whose neighbours' partners all lie in one layer; return what is left."""
    free = list(entry.right)
    rest = []
    for a in entry.left:
        there = [b for b in free if (b.layer, b.role) == (layers.get(a.layer), a.role)]
        if len(there) == 1:
            free.remove(there[0])
            matches.append((a, there[0], ""))
        else:
            rest.append(a)
    return _Class(rest, free)


def _by_order(entry: _Class, key: Callable[[Target], str], matches: list[_Match]) -> _Class:
    """Match targets of equal ``key`` one after the other where both sides have as many; return what is left."""
    rest = _Class([], [])
    for value in dict.fromkeys(map(key, (*entry.left, *entry.right))):
        left, right = ([t for t in side if key(t) == value] for side in (entry.left, entry.right))
        if len(left) != len(right):
            rest.left += left
            rest.right += right
            continue
        note = f"{len(left)} parameters hold these bits; paired in graph order" if len(left) > 1 else ""
        matches += [(a, b, note) for a, b in zip(left, right, strict=True)]
    return rest


def _kind(a: Target, b: Target) -> tuple[int, int, str]:
    return len(a.shape), len(b.shape), a.role


def _orders(a: Bits, b: Bits, at_most: int | None = None) -> list[AxisOrder]:
    """Return the axis orders under which ``a`` is ``b``: of all axes for equal ranks, else of those longer than one."""
    if a.ndim != b.ndim:
        a, b = a.squeeze(), b.squeeze()
    found: list[AxisOrder] = []
    for order in permutations(range(a.ndim)) if a.ndim == b.ndim else ():
        if tuple(a.shape[axis] for axis in order) == b.shape and _equal(a.transpose(order), b):
            found.append(order)
            if len(found) == at_most:
                break
    return found


def _equal(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return bool(np.array_equal(a.flat[:_PROBE], b.flat[:_PROBE]) and np.array_equal(a, b))


def _pair(a: Target, b: Target, note: str, orders: list[AxisOrder], votes: Counter[AxisOrder]) -> TargetPair:
    """Choose the axis order that fits most pairs of this kind; orders that differ in axes of length one are one."""
    best = max(orders, key=lambda order: votes[order])  # the first of equals: identity before others
    rivals = {_long_axes(a, b, order) for order in orders if votes[order] == votes[best]}
    if len(rivals) > 1:
        note = "; ".join(filter(None, (note, f"{len(rivals)} axis orders give these bits; took the first")))
    return TargetPair(a, b, _long_axes(a, b, best), note)


def _long_axes(a: Target, b: Target, order: AxisOrder) -> AxisOrder:
    """Return ``order`` without the axes of length one, renumbered."""
    if len(a.shape) != len(b.shape):
        return order
    long = [axis for axis, length in enumerate(a.shape) if length != 1]
    return tuple(long.index(axis) for axis in order if axis in long)
