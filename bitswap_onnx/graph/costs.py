"""The costs of layers: parameters, multiply-accumulates, size of weights. The model need not run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bitswap_onnx.graph.sites import NeuronSite, data_slot
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.graph.targets import Target, find_targets

_CONVOLUTIONS = ("Conv", "FusedConv", "QLinearConv")


@dataclass(frozen=True, slots=True)
class LayerCost:
    """The stored ``parameters`` of a layer, and its multiply-accumulates per input, ``macs`` (0 without a kernel).

    ``weight_norm`` is the Euclidean norm of the kernel, 0 without a stored kernel. ``weight_exponent`` is the mean
    binary exponent, floor(log2 |w|), of its finite weights other than 0; -inf without any. Integers are taken as they
    are stored, without their scale.
    """

    layer: str
    parameters: int
    macs: int
    weight_norm: float
    weight_exponent: float


def layer_costs(slicer: Slicer, sites: Sequence[NeuronSite]) -> list[LayerCost]:
    """Return the cost of each site's layer, in order."""
    targets = find_targets(slicer.model)
    return [_cost(slicer, site, targets) for site in sites]


def kernel_of(site: NeuronSite, targets: Sequence[Target]) -> Target | None:
    """Return the stored kernel of a site's layer, if it has one."""
    return next((target for target in targets if target.tensor == site.weight), None)


def _cost(slicer: Slicer, site: NeuronSite, targets: Sequence[Target]) -> LayerCost:
    kernel = kernel_of(site, targets)
    layers = {site.layer} if kernel is None else {site.layer, kernel.layer}  # a module called twice has a name per call
    elements = {t.tensor: t.elements for t in targets if layers & {layer for layer, _ in t.names}}
    norm, exponent = 0.0, -math.inf
    if site.weight is not None:
        weights = slicer.model.tensor(site.weight).astype(np.float64)
        norm = float(np.linalg.norm(weights))
        _, exponents = np.frexp(weights[(weights != 0) & np.isfinite(weights)])
        exponent = float(exponents.mean() - 1) if exponents.size else exponent
    return LayerCost(site.layer, sum(elements.values()), _macs(slicer, site, kernel), norm, exponent)


def _macs(slicer: Slicer, site: NeuronSite, kernel: Target | None) -> int:
    """Return a layer's multiply-accumulates per input."""
    node = slicer.producer.get(site.made) if site.role == "kernel" else None
    return 0 if node is None else node_macs(slicer, node, None if kernel is None else kernel.elements)


def node_macs(slicer: Slicer, index: int, weights: int | None = None) -> int:
    """Return a node's multiply-accumulates per input: the elements of its output times the products summed in each.

    ``weights``: the number of its weights (default: as many as its kernel has). 0 for nodes that multiply no kernel, and
    where shapes are not known.
    """
    slot = data_slot(slicer, index)
    node = slicer.nodes[index]
    if slot is None:
        return 0
    out, data = slicer.dims(node.output[0]) or (), slicer.dims(node.input[slot]) or ()
    if len(out) < 2 or len(data) < 2:
        return 0
    if weights is None and node.op_type in ("Conv", "ConvTranspose", "FusedConv"):
        weights = math.prod(slicer.dims(node.input[1]) or ())
    if weights and node.op_type == "ConvTranspose":  # each input element meets all weights of its channel
        return math.prod(data[1:]) * weights // data[1]
    if weights and node.op_type in _CONVOLUTIONS:
        return math.prod(out[1:]) * weights // out[1]
    return math.prod(out[1:]) * data[-1 if slot == 0 else -2]
