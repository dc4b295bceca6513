"""A fault list in numbers: faults per layer, bit and kind, duplicates, share of the model's bits."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from bitswap_onnx.faults.fault import Fault, Injection
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.resolve import Resolver


@dataclass(frozen=True)
class LayerCount:
    """Faults in one ``parameter`` of one layer, or in its ``output`` or ``input``; ``distinct`` leaves out duplicates.

    ``bits`` is the number of bits that the model has there, None without a model.
    """

    layer: str
    parameter: str
    faults: int
    distinct: int
    bits: int | None


@dataclass(frozen=True)
class ListDescription:
    """A fault list in numbers. ``bits`` are ((kind, bit), faults) pairs; ``duplicates`` counts repeated faults."""

    injections: int
    faults: int
    duplicates: int
    layers: list[LayerCount]
    bits: list[tuple[tuple[str, int | None], int]]

    def as_dict(self) -> dict[str, Any]:
        """Return the description as dicts, lists and numbers that JSON can hold."""
        bits = [{"kind": kind, "bit": bit, "faults": count} for (kind, bit), count in self.bits]
        return {**asdict(self), "bits": bits}


def describe_list(injections: Iterable[Injection], model: Model | None = None) -> ListDescription:
    """Count the faults of a list; with ``model``, under the model's names of layers and with the bits that they have.

    Raises FaultListError for a bad row, and for a layer that ``model`` does not have.
    """
    resolver = Resolver(model) if model else None
    sizes: dict[tuple[str, str], int] = {}
    layers: Counter[tuple[str, str]] = Counter()
    distinct: Counter[tuple[str, str]] = Counter()
    bits: Counter[tuple[str, int | None]] = Counter()
    seen: set[int] = set()
    number = 0
    for injection in injections:
        number += 1
        for fault in injection.faults:
            key = _place(fault, resolver, sizes)
            layers[key] += 1
            bits[fault.kind.value, fault.bit] += 1
            identity = hash((key, fault.index, fault.bit, fault.kind, fault.value, fault.input))
            distinct[key] += identity not in seen
            seen.add(identity)
    counts = [LayerCount(*key, count, distinct[key], sizes.get(key)) for key, count in layers.items()]
    faults = sum(layers.values())
    ordered = sorted(bits.items(), key=lambda item: (item[0][0], -1 if item[0][1] is None else item[0][1]))
    return ListDescription(number, faults, faults - sum(distinct.values()), counts, ordered)


def _place(fault: Fault, resolver: Resolver | None, sizes: dict[tuple[str, str], int]) -> tuple[str, str]:
    """Return the layer that a fault hits and the parameter or side there; put its bits into ``sizes``."""
    if resolver is None:
        return fault.layer, fault.site or fault.parameter or "weight"
    if fault.site is not None:
        site = resolver.find_site(fault)
        sizes[site.layer, site.site.value] = site.elements * site.format.width
        return site.layer, site.site.value
    target = resolver.find(fault)
    key = target.layer, target.parameter
    sizes[key] = target.bits
    return key
