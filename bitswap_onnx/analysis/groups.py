"""The groups of injections that are asked about: parts of a network by layer, bit, class of bits, or layer and bit."""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from bitswap_onnx.analysis.recorded import OTHER, SEVERAL, Labels, Recorded
from bitswap_onnx.analysis.stratified import Members
from bitswap_onnx.faults.bits import BIT_CLASSES

Scope = Literal["network", "layer", "bit", "bit-class", "layer-bit"]

SCOPES: tuple[Scope, ...] = ("network", "layer", "bit", "bit-class", "layer-bit")
#: The one group that is not a part.
ALL = "all"


def groups(recorded: Recorded, scope: Scope) -> Iterator[tuple[str, Members]]:
    """Yield the groups of a scope and their injections: layers as the list has them, bits from the highest on."""
    layers, bits = recorded.layers, recorded.bits
    match scope:
        case "network":
            yield ALL, np.arange(len(recorded))
        case "layer":
            yield from _split(layers)
        case "bit":
            yield from sorted(_split(bits), key=lambda group: _bit_order(group[0]))
        case "bit-class":
            order = (*BIT_CLASSES, OTHER, SEVERAL)
            yield from sorted(_split(recorded.bit_classes), key=lambda group: order.index(group[0]))
        case "layer-bit":
            mixed = (layers == SEVERAL) | (bits == SEVERAL)
            for layer, member in _split(np.where(mixed, SEVERAL, layers)):
                parts = [(SEVERAL, np.arange(len(member)))] if layer == SEVERAL else list(_split(bits[member]))
                for bit, part in sorted(parts, key=lambda group: _bit_order(group[0])):
                    yield SEVERAL if layer == SEVERAL else f"{layer} bit {bit}", member[part]


def _split(labels: Labels) -> list[tuple[str, Members]]:
    """Return each label, in the order of first appearance, with the injections that have it."""
    names, first, number = np.unique(labels, return_index=True, return_inverse=True)
    parts = np.split(np.argsort(number, kind="stable"), np.cumsum(np.bincount(number))[:-1])
    return [(str(names[i]), parts[i]) for i in np.argsort(first)]


def _bit_order(bit: str) -> tuple[int, str]:
    return (-int(bit), "") if bit.isdigit() else (1, bit)
