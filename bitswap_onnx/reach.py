"""Which neurons faults can get at, and the numerics in which they can without changing any other bit.

The runtime computes some layers in one piece, so that a value inside has no place where a bit could flip; with a flip node
there, the piece falls apart and rounds otherwise. Then those fusions are switched off, for clean and faulty runs alike.
"""

from collections.abc import Sequence
from dataclasses import replace

from bitswap_onnx.errors import ModelError
from bitswap_onnx.graph.sites import NeuronSite
from bitswap_onnx.prepare import Setup
from bitswap_onnx.runtime.observe import shut_sites
from bitswap_onnx.runtime.session import VALUE_FUSIONS

#: How the note on fusions begins.
_OFF = "fusions off, so that faults can get at the values inside: "

#: Inputs that sites are tried with, at most.
_TRIED = 1024


def reach(setup: Setup, sites: Sequence[NeuronSite]) -> tuple[Setup, tuple[NeuronSite, ...]]:
    """Return the setup, with as many fusions as possible, in which faults can get at ``sites``; and those that remain shut.

    Tried with a flip node without a fault at every site, over the first inputs of the dataset: all scores must keep their
    bits. Raises ModelError for a model that takes no flip nodes.
    """
    distinct = tuple({site.key: site for site in sites}.values())
    for apart in VALUE_FUSIONS[VALUE_FUSIONS.index(setup.numerics.apart) :]:
        if apart != setup.numerics.apart:
            numerics = replace(setup.numerics, apart=apart)
            setup = replace(setup, numerics=numerics, notes=_noted(setup.notes, apart), _clean=[])
        inputs = setup.dataset.batch(0, min(len(setup.dataset), _TRIED))
        shut = shut_sites(setup.running_slicer, setup.numerics, distinct, inputs)
        if not shut:
            break
    keys = {site.key for site in shut}
    return setup, tuple(site for site in sites if site.key in keys)


def _noted(notes: tuple[str, ...], apart: str) -> tuple[str, ...]:
    """Return notes that say how many fusions are off, and nothing of an earlier try."""
    count = len(apart.split(","))
    kept = (note for note in notes if not note.startswith(_OFF))
    return (*kept, f"{_OFF}{apart if count == 1 else f'{count} kinds'}, in clean and faulty runs alike")


def without_shut(setup: Setup, sites: Sequence[NeuronSite]) -> tuple[Setup, tuple[NeuronSite, ...]]:
    """Return the setup of `reach` with a note that names the layers left out, and the sites that remain.

    Raises ModelError if none does.
    """
    setup, shut = reach(setup, sites)
    if not shut:
        return setup, tuple(sites)
    layers = ", ".join(dict.fromkeys(site.layer for site in shut))
    why = "ONNX Runtime computes each in one piece with others, other scores follow where a fault can get at it"
    rest = tuple(site for site in sites if site not in shut)
    if not rest:
        raise ModelError(f"{setup.model.name}: faults can get at none of the layers {layers}: {why}; choose others")
    return replace(setup, notes=(*setup.notes, f"left out: {layers}: {why}")), rest
