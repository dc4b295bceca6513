"""Convert a fault list of one model into a list of the same faults for another model that holds the same weights."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from bitswap_onnx.errors import FaultListError, amount
from bitswap_onnx.faults.fault import Fault, Injection
from bitswap_onnx.faults.fault_list import refuse_neurons
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.pairing import Pairing, pair_targets
from bitswap_onnx.graph.resolve import Resolver
from bitswap_onnx.graph.targets import Target

#: How many targets a message names.
_NAMED = 12


@dataclass(frozen=True, eq=False, repr=False)
class ConvertedFaults:
    """A converted list of so many ``injections``; each iteration converts again, one injection after the other.

    ``notes``: one line for each used pair of targets that was chosen among equals.
    """

    faults: Iterable[Injection]
    injections: int
    notes: tuple[str, ...]
    _converter: "_Converter"

    def __iter__(self) -> Iterator[Injection]:
        return map(self._converter.convert, self.faults)

    def __repr__(self) -> str:
        return f"<ConvertedFaults: {amount(self.injections, 'injection')}>"


def converted_faults(faults: Iterable[Injection], source: Model, partner: Model) -> ConvertedFaults:
    """Return ``faults``, a list for ``source``, as a list for ``partner``; targets are paired by content.

    Layer, parameter and index change; ids, kinds, bits, values and order stay. The whole list is read once here, and
    again by each iteration of the result. Raises FaultListError for a neuron fault, for a fault that does not resolve
    in ``source``, and for targets without a partner, the first 12 of which it names.
    """
    if isinstance(faults, Iterator):
        faults = tuple(faults)
    refuse_neurons(faults, "a conversion")
    converter = _Converter(Resolver(source), Resolver(partner), pair_targets(source, partner))
    used: dict[str, Target] = {}
    number = 0
    for injection in faults:
        number += 1
        for receipt in converter.source.resolve(injection).receipts:
            used.setdefault(receipt.target.tensor, receipt.target)
    _check_partners(used.values(), converter.pairing, partner.name)
    pairs = [converter.pairing.pairs[tensor] for tensor in used]
    notes = tuple(f"{_name(pair.source)} -> {_name(pair.partner)}: {pair.note}" for pair in pairs if pair.note)
    return ConvertedFaults(faults, number, notes, converter)


class _Converter:
    """Converts injections one by one: the targets of both models and how they pair."""

    def __init__(self, source: Resolver, partner: Resolver, pairing: Pairing) -> None:
        self.source = source
        self.partner = partner
        self.pairing = pairing
        self._partners = {target.tensor: target for target in partner.targets}
        self._bare: dict[str, bool] = {}

    def convert(self, injection: Injection) -> Injection:
        return Injection(injection.id, tuple(map(self._fault, injection.faults)))

    def _fault(self, fault: Fault) -> Fault:
        pair = self.pairing.pairs[self.source.find(fault).tensor]
        partner = self._partners[pair.partner.tensor]
        layer, parameter = self.partner.address(partner)
        bare = fault.parameter is None and self._is_weight_of(layer, partner)
        return replace(fault, layer=layer, parameter=None if bare else parameter, index=pair.index(fault.index))

    def _is_weight_of(self, layer: str, partner: Target) -> bool:
        """Whether the layer alone leads to ``partner``, so that a fault list needs no Parameter."""
        if partner.tensor not in self._bare:
            try:
                is_found = self.partner.find(Fault(layer, ())) is partner
            except FaultListError:
                is_found = False
            self._bare[partner.tensor] = is_found
        return self._bare[partner.tensor]


def _check_partners(used: Iterable[Target], pairing: Pairing, partner: str) -> None:
    missing = [target for target in used if target.tensor in pairing.unpaired]
    if missing:
        named = [f"{_name(target)} ({pairing.unpaired[target.tensor]})" for target in missing[:_NAMED]]
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        raise FaultListError(
            f"expected the same weights in {partner}, found no partner of {', '.join(named)}{more}; "
            "lists are carried over between models with the same weights alone"
        )


def _name(target: Target) -> str:
    return f"{target.layer}.{target.parameter}"
