"""Which neuron sites a user means: by name, by type of layer, or those that are injected by default."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from bitswap_onnx.errors import ModelError, nearest
from bitswap_onnx.faults.fault import Site
from bitswap_onnx.graph.layer_kinds import same_kind
from bitswap_onnx.graph.sites import NeuronSite


def select_sites(
    sites: Sequence[NeuronSite],
    patterns: str | None = None,
    kinds: str | None = None,
    site: Site = Site.OUTPUT,
    exclude: str | None = None,
) -> tuple[NeuronSite, ...]:
    """Return the sites of one side that are chosen, in order.

    ``patterns``: comma-separated globs or texts of layer names; ``kinds``: comma-separated types of layers, as PyTorch,
    Keras or ONNX call them. With neither: the model's input if it is of floats, layers with kernels and vanished modules.
    A glob or a whole name stands for what it says, a part of a name for those default ones that have it, if some do.
    ``exclude``: patterns of layers to leave out. Raises ModelError for a pattern or a kind that no layer has, and if no
    layer is left.
    """
    own = [entry for entry in sites if entry.site is site]
    if exclude is not None:
        left_out = [entry for pattern in _parts(exclude) for entry in _named(own, pattern, usual=False)]
        rest = [entry for entry in own if entry not in left_out]
        if not rest:
            raise ModelError(f"--exclude {exclude!r} leaves no layer of {len(own)}; exclude fewer")
        return select_sites(rest, patterns, kinds, site)
    if patterns is None and kinds is None:
        return tuple(filter(_by_default, own))
    chosen = own
    groups = [[entry for entry in own if _is_kind(entry, kind)] for kind in _parts(kinds)]
    for kind, group in zip(_parts(kinds), groups, strict=True):
        if not group:
            known = nearest(kind, dict.fromkeys(entry.kind for entry in own))
            raise ModelError(f"--layer-type: no layer is of type {kind!r}; the nearest are {known}")
    if kinds is not None:  # nodes stand for themselves only where no module does
        wanted = [entry for g in groups for entry in ([e for e in g if e.role != "node"] or g)]
        chosen = [entry for entry in own if entry in wanted]
    if patterns is not None:
        wanted = [entry for pattern in _parts(patterns) for entry in _named(own, pattern, kinds is None)]
        chosen = [entry for entry in chosen if entry in wanted]
    if not chosen:
        what = f"of type {kinds!r} and named {patterns!r}" if kinds and patterns else "named in an empty list"
        raise ModelError(f"no layer is {what}; see them all with inspect --neurons --layers '*'")
    return tuple(chosen)


def _named(sites: Sequence[NeuronSite], pattern: str, usual: bool) -> list[NeuronSite]:
    """Return the sites that a pattern names: of parts of names, the ``usual`` ones if there are any."""
    named = [entry for entry in sites if fnmatchcase(entry.layer, pattern)]
    parts = [entry for entry in sites if pattern in entry.layer]
    if not named and not parts:
        raise ModelError(f"no layer matches {pattern!r}; the nearest are {nearest(pattern, (e.layer for e in sites))}")
    return named or [entry for entry in parts if usual and _by_default(entry)] or parts


def _by_default(site: NeuronSite) -> bool:
    return site.role in ("kernel", "vanished") or (site.role == "input" and site.format.is_float)


def _parts(text: str | None) -> list[str]:
    return [part for part in (part.strip() for part in (text or "").split(",")) if part]


def _is_kind(site: NeuronSite, kind: str) -> bool:
    return same_kind(kind, site.kind) or same_kind(kind, site.operator)
