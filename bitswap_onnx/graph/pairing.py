"""Pair the targets of two models by content, bit for bit, whatever their names and layouts.

Two targets may be partners if the bits of one are the bits of the other with its axes permuted. Axes of length one are
ignored: ``(O, I, 1, 1)`` and ``(I, O)`` can be one kernel. Bits are compared as unsigned integers, so NaNs are equal if
their bits are, and 0 and -0 differ. Targets whose bits occur once in each model are partners. Among several targets
with the same bits, these rules choose, in this order:

1. layer: the partner is in the layer that holds the partners of the target's neighbours, in the same role;
2. graph order: among targets of the same role, then of any role, and only where both models have equally many.

Where several axis orders give the same bits (symmetric or constant tensors), the pair takes the order that fits most
pairs of the same rank and role, else the first. A pair has a note if graph order or the first axis order decided.
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

    ``axes``: without axes of length one, axis i of ``partner`` is axis ``axes[i]`` of ``source``. ``note`` says which
    rule chose among equal candidates; it is empty if there was one candidate.
    """

    source: Target
    partner: Target
    axes: AxisOrder
    note: str = ""

    def index(self, index: tuple[int, ...]) -> tuple[int, ...]:
        """Return the index in ``partner`` of the element ``index`` of ``source``."""
        long = [i for i, length in zip(index, self.source.shape, strict=True) if length != 1]
        moved = iter([long[axis] for axis in self.axes])
        return tuple(next(moved) if length != 1 else 0 for length in self.partner.shape)


@dataclass(frozen=True, slots=True)
class Pairing:
    """``pairs``: tensor key of the source → its pair; ``unpaired``: key → the reason why it has no partner."""

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
    """One model: its targets that have elements, in graph order, and their bits, read when they are needed."""

    def __init__(self, model: Model) -> None:
        self.targets = [target for target in find_targets(model) if target.elements]
        self._tensors = stored_tensors(model.proto)
        self._folder = model.folder

    def bits(self, target: Target) -> Bits:
        return to_bits(read_tensor(self._tensors[target.tensor], self._folder))


@dataclass(slots=True)
class _Class:
    """Targets of both models with the same bits up to the order of their axes; each list is in graph order."""

    left: list[Target]
    right: list[Target]


_Match = tuple[Target, Target, str]


def _equal_classes(left: _Side, right: _Side) -> tuple[list[_Class], dict[str, str]]:
    """Return the classes that have targets of both models, and tensor key → reason for the targets without partner.

    Targets are put into buckets by dtype, lengths and a hash that ignores order; within a bucket, bits are compared.
    """
    outlines = {_outline(target) for target in right.targets}
    buckets: dict[tuple[object, ...], list[tuple[Bits, _Class]]] = defaultdict(list)
    unpaired: dict[str, str] = {}
    for target in left.targets:
        if _outline(target) in outlines:
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
    for class_bits, entry in bucket:
        if _orders(class_bits, bits, at_most=1):
            return entry
    bucket.append((bits, _Class([], [])))
    return bucket[-1][1]


def _outline(target: Target) -> tuple[str, tuple[int, ...]]:
    return target.dtype, tuple(sorted(length for length in target.shape if length != 1))


def multiset_hash(bits: Bits) -> int:
    """Return a 64-bit hash of an array's elements that does not depend on their order.

    It is the sum of all elements' hashes (SplitMix64's finaliser; Steele, Lea and Flood, OOPSLA 2014) modulo 2^64.
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
    """Return the partners within classes, and tensor key → reason for the targets that stay without partner."""
    matches = [(entry.left[0], entry.right[0], "") for entry in classes if len(entry.left) == len(entry.right) == 1]
    neighbours: dict[str, Counter[str]] = defaultdict(Counter)
    for a, b, _ in matches:
        neighbours[a.layer][b.layer] += 1
    layers = {layer: counts.most_common(1)[0][0] for layer, counts in neighbours.items()}
    unpaired: dict[str, str] = {}
    for entry in classes:
        if len(entry.left) == len(entry.right) == 1:
            continue
        unmatched = _by_layer(entry, layers, matches)
        for key in (lambda target: target.role, lambda target: ""):
            unmatched = _by_order(unmatched, key, matches)
        sizes = f"{len(entry.left)} parameters with equal bits here, {len(entry.right)} there"
        unpaired |= {target.tensor: sizes for target in unmatched.left}
    return matches, unpaired


def _by_layer(entry: _Class, layers: dict[str, str], matches: list[_Match]) -> _Class:
    """Match the targets that have one candidate in the layer of their neighbours' partners; return the others."""
    free = list(entry.right)
    unmatched = []
    for a in entry.left:
        candidates = [b for b in free if (b.layer, b.role) == (layers.get(a.layer), a.role)]
        if len(candidates) == 1:
            free.remove(candidates[0])
            matches.append((a, candidates[0], ""))
        else:
            unmatched.append(a)
    return _Class(unmatched, free)


def _by_order(entry: _Class, key: Callable[[Target], str], matches: list[_Match]) -> _Class:
    """Match targets of equal ``key`` one after the other where both models have equally many; return the others."""
    unmatched = _Class([], [])
    for value in dict.fromkeys(map(key, (*entry.left, *entry.right))):
        left, right = ([t for t in side if key(t) == value] for side in (entry.left, entry.right))
        if len(left) != len(right):
            unmatched.left += left
            unmatched.right += right
            continue
        note = f"{len(left)} parameters hold these bits; paired in graph order" if len(left) > 1 else ""
        matches += [(a, b, note) for a, b in zip(left, right, strict=True)]
    return unmatched


def _kind(a: Target, b: Target) -> tuple[int, int, str]:
    return len(a.shape), len(b.shape), a.role


def _orders(a: Bits, b: Bits, at_most: int | None = None) -> list[AxisOrder]:
    """Return the axis orders in which ``a`` equals ``b``, ``at_most`` so many.

    They are orders of all axes if the ranks are equal, else of the axes longer than one.
    """
    if a.ndim != b.ndim:
        a, b = a.squeeze(), b.squeeze()
    orders: list[AxisOrder] = []
    for order in permutations(range(a.ndim)) if a.ndim == b.ndim else ():
        if tuple(a.shape[axis] for axis in order) == b.shape and _equal(a.transpose(order), b):
            orders.append(order)
            if len(orders) == at_most:
                break
    return orders


def _equal(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return bool(np.array_equal(a.flat[:_PROBE], b.flat[:_PROBE]) and np.array_equal(a, b))


def _pair(a: Target, b: Target, note: str, orders: list[AxisOrder], votes: Counter[AxisOrder]) -> TargetPair:
    """Return a pair with the axis order that fits most pairs of its kind; axes of length one make no difference."""
    best = max(orders, key=lambda order: votes[order])  # of equally good orders the first: the identity before others
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
