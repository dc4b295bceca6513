"""Neurons that depend on another fault of their injection.

A receipt shows a neuron's golden bits as its clean bits. If another fault of the same injection has already changed that
neuron, the golden bits are not the ones that flip, so the receipt shows no clean bits.
"""

from bitswap_onnx.graph.receipts import ResolvedInjection
from bitswap_onnx.graph.resolve import Resolver
from bitswap_onnx.graph.sites import NeuronSite, output_key
from bitswap_onnx.graph.slices import Slicer


class DependentNeurons:
    """Tells which neurons of an injection depend on its other faults; keeps the cone of every tensor and site it meets."""

    def __init__(self, slicer: Slicer, resolver: Resolver) -> None:
        self.slicer = slicer
        self.resolver = resolver
        self._cones: dict[str, frozenset[int]] = {}

    def rows(self, injection: ResolvedInjection) -> set[int]:
        """Return the rows of the neuron faults of one input that depend on another fault of their injection."""
        if len(injection.path) < 2:
            return set()
        keys: dict[int | None, set[str]] = {None: {receipt.target.tensor for receipt in injection.receipts}}
        for receipt in injection.neurons:
            keys.setdefault(receipt.fault.input, set()).add(receipt.site.key)
        return {
            receipt.row
            for receipt in injection.neurons
            if receipt.fault.input is not None
            and any(self._depends(receipt.site, key) for key in keys[None] | keys[receipt.fault.input])
        }

    def _depends(self, site: NeuronSite, key: str) -> bool:
        """Whether the value at a site depends on a fault in the tensor or at the other site that has the ``key``."""
        if key == output_key(site.value):
            return key != site.key
        return self.slicer.producer.get(site.value) in self._cone(key)

    def _cone(self, key: str) -> frozenset[int]:
        """Return the nodes that a fault in a tensor or at a site can change."""
        if key not in self._cones:
            site = next((site for site in self.resolver.sites if site.key == key), None)
            if site is None:
                starts = self.slicer.users(key)
            elif key == output_key(site.value):
                starts = self.slicer.readers.get(site.value, ())
            else:
                starts = (self.slicer.producer[site.made],)
            self._cones[key] = self.slicer.cone(starts)
        return self._cones[key]
