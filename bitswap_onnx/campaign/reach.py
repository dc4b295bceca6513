"""Neuron sites that faults cannot reach.

Where faults hit neurons, each node runs on its own (`Numerics.apart`). The runtime still computes some nodes in one kernel.
Between them there is no value in which a bit could flip: a flip node there splits the kernel, and the clean scores change.
"""

from collections.abc import Sequence
from dataclasses import replace

from bitswap_onnx.campaign.setup import Setup
from bitswap_onnx.errors import ModelError
from bitswap_onnx.graph.sites import NeuronSite
from bitswap_onnx.runtime.observe import unreachable_sites

#: Largest number of inputs that sites are tried with.
_TRIED = 1024


def find_unreachable(setup: Setup, sites: Sequence[NeuronSite]) -> tuple[NeuronSite, ...]:
    """Return those of ``sites`` that faults cannot reach.

    Each is tried with a flip node without a fault, over the first inputs of the dataset: all scores must keep their bits.
    Raises ModelError for a model that takes no flip nodes.
    """
    distinct = tuple({site.key: site for site in sites}.values())
    inputs = setup.dataset.batch(0, min(len(setup.dataset), _TRIED))
    keys = {site.key for site in unreachable_sites(setup.clean_slicer, setup.numerics, distinct, inputs)}
    return tuple(site for site in sites if site.key in keys)


def leave_out_unreachable(setup: Setup, sites: Sequence[NeuronSite]) -> tuple[Setup, tuple[NeuronSite, ...]]:
    """Return ``sites`` without those that faults cannot reach, and the setup with a note that names their layers.

    Raises ModelError if none remains.
    """
    unreachable = find_unreachable(setup, sites)
    if not unreachable:
        return setup, tuple(sites)
    layers = ", ".join(dict.fromkeys(site.layer for site in unreachable))
    why = "ONNX Runtime fuses each with its neighbours; a flip node there would change the clean scores"
    reachable = tuple(site for site in sites if site not in unreachable)
    if not reachable:
        raise ModelError(f"{setup.model.name}: faults can reach none of the layers {layers}: {why}; choose others")
    return replace(setup, left_out=(*setup.left_out, f"left out: {layers}: {why}")), reachable
