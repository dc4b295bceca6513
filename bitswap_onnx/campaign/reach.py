"""Which neurons faults can get at.

Where faults hit neurons, each node runs on its own (`Numerics.apart`). What the runtime still computes in one piece has no
place where a bit could flip: with a flip node there it falls apart and rounds otherwise.
"""

from collections.abc import Sequence
from dataclasses import replace

from bitswap_onnx.campaign.setup import Setup
from bitswap_onnx.errors import ModelError
from bitswap_onnx.graph.sites import NeuronSite
from bitswap_onnx.runtime.observe import shut_sites

#: Inputs that sites are tried with, at most.
_TRIED = 1024


def shut_in(setup: Setup, sites: Sequence[NeuronSite]) -> tuple[NeuronSite, ...]:
    """Return those of ``sites`` that faults cannot get at.

    Tried with a flip node without a fault at every site, over the first inputs of the dataset: all scores must keep their
    bits. Raises ModelError for a model that takes no flip nodes.
    """
    distinct = tuple({site.key: site for site in sites}.values())
    inputs = setup.dataset.batch(0, min(len(setup.dataset), _TRIED))
    keys = {site.key for site in shut_sites(setup.running_slicer, setup.numerics, distinct, inputs)}
    return tuple(site for site in sites if site.key in keys)


def without_shut(setup: Setup, sites: Sequence[NeuronSite]) -> tuple[Setup, tuple[NeuronSite, ...]]:
    """Return ``sites`` without those of `shut_in`, and the setup with a note that names their layers.

    Raises ModelError if none remains.
    """
    shut = shut_in(setup, sites)
    if not shut:
        return setup, tuple(sites)
    layers = ", ".join(dict.fromkeys(site.layer for site in shut))
    why = "ONNX Runtime fuses each with its neighbours; a flip node there would change the clean scores"
    rest = tuple(site for site in sites if site not in shut)
    if not rest:
        raise ModelError(f"{setup.model.name}: faults can get at none of the layers {layers}: {why}; choose others")
    return replace(setup, left_out=(*setup.left_out, f"left out: {layers}: {why}")), rest
