"""Groups of injections that have rates: the network, and its parts by layer, bit, class of bits, or layer and bit."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from bitswap_onnx.estimates.names import Scope
from bitswap_onnx.estimates.read import OTHER, SEVERAL, FaultLabels, Recorded
from bitswap_onnx.faults.bits import BIT_CLASSES, FORMATS
from bitswap_onnx.sampling.rounds import Indices
from bitswap_onnx.sampling.strata import StratumPart
from bitswap_onnx.stats.intervals import Values
from bitswap_onnx.stats.stratified import Frame

#: Group name → stratum number → number of the group's faults in that stratum.
FaultsByStratum = dict[str, dict[int, int]]

#: The group of all injections.
ALL = "all"


class Group(NamedTuple):
    """A group of injections.

    ``member``: the numbers of its injections. ``sizes`` (strata,): the number of its faults in each stratum; None where
    that is not known, and for the whole network.
    """

    name: str
    member: Indices
    sizes: Values | None = None


def faults_by_stratum(parts: Sequence[StratumPart], scope: Scope) -> FaultsByStratum:
    """Return the number of faults of a scope's groups in each stratum."""
    sizes: FaultsByStratum = {}
    for part in parts:
        for bit in part.bits:
            by_stratum = sizes.setdefault(_NAMES[scope](part, bit), {})
            by_stratum[part.stratum] = by_stratum.get(part.stratum, 0) + part.each
    return sizes


def groups(recorded: Recorded, scope: Scope, frame: Frame) -> Iterator[Group]:
    """Yield the groups of a scope: layers in the order of the list, bits from the highest to the lowest.

    The sizes of groups count as not known if the label of some injection does not occur in its stratum: a results file
    may not tell the class of a bit, and a run may have read a list with the other bit order.
    """
    split = list(_groups(recorded, scope))
    sizes = None if frame.parts is None or scope == "network" else faults_by_stratum(frame.parts, scope)
    known = sizes is not None and all(_fits(sizes.get(group.name, {}), group, frame) for group in split)
    for group in split:
        yield group._replace(sizes=_vector(sizes, group.name, frame)) if sizes is not None and known else group


def _groups(recorded: Recorded, scope: Scope) -> Iterator[Group]:
    layers, bits = recorded.layers, recorded.bits
    match scope:
        case "network":
            yield Group(ALL, np.arange(len(recorded)))
        case "layer":
            yield from _split(layers)
        case "bit":
            yield from sorted(_split(bits), key=lambda group: _bit_order(group.name))
        case "bit-class":
            order = (*BIT_CLASSES, OTHER, SEVERAL)
            yield from sorted(_split(recorded.bit_classes), key=lambda group: order.index(group.name))
        case "layer-bit":
            mixed = (layers == SEVERAL) | (bits == SEVERAL)
            for layer, member, _ in _split(np.where(mixed, SEVERAL, layers)):
                parts = [Group(SEVERAL, np.arange(len(member)))] if layer == SEVERAL else _split(bits[member])
                for bit, part, _ in sorted(parts, key=lambda group: _bit_order(group.name)):
                    yield Group(SEVERAL if layer == SEVERAL else f"{layer} bit {bit}", member[part])


def _fits(sizes: dict[int, int], group: Group, frame: Frame) -> bool:
    strata, drawn = np.unique(frame.stratum[group.member], return_counts=True)
    most = [sizes.get(stratum, 0) for stratum in strata.tolist()]
    if frame.inputs_drawn:  # a fault may be drawn several times, each time with other inputs
        return all(most)
    return all(number <= size for number, size in zip(drawn.tolist(), most, strict=True))


def _vector(sizes: FaultsByStratum, name: str, frame: Frame) -> Values:
    vector = np.zeros(len(frame.sizes))
    by_stratum = sizes[name]
    vector[list(by_stratum)] = list(by_stratum.values())
    return vector


def _split(labels: FaultLabels) -> list[Group]:
    """Return the groups of injections with the same label, in the order of first appearance."""
    names, first, number = np.unique(labels, return_index=True, return_inverse=True)
    parts = np.split(np.argsort(number, kind="stable"), np.cumsum(np.bincount(number))[:-1])
    return [Group(str(names[i]), parts[i]) for i in np.argsort(first)]


def _bit_order(bit: str) -> tuple[int, str]:
    return (-int(bit), "") if bit.isdigit() else (1, bit)


_NAMES: dict[Scope, Callable[[StratumPart, int], str]] = {
    "network": lambda part, bit: ALL,
    "layer": lambda part, bit: part.layer,
    "bit": lambda part, bit: str(bit),
    "bit-class": lambda part, bit: FORMATS[part.format].bit_class(bit),
    "layer-bit": lambda part, bit: f"{part.layer} bit {bit}",
}
