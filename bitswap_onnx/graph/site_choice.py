"""Choose neuron sites by layer name, by type of layer, or by default."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from bitswap_onnx.errors import ModelError, nearest
from bitswap_onnx.faults.fault import Site
from bitswap_onnx.graph.layer_kinds import same_kind
from bitswap_onnx.graph.sites import NeuronSite


def select_sites(
    sites: Sequence[NeuronSite],
    layers: str | None = None,
    layer_type: str | None = None,
    side: Site = Site.OUTPUT,
    exclude: str | None = None,
) -> tuple[NeuronSite, ...]:
    """Return the chosen sites of one side, output or input, in order.

    ``layers``: comma-separated globs or texts. A glob or a whole name chooses the layers whose names it matches. Another
    text chooses the layers whose names it is part of: those of the default choice if there are any, else all.
    ``layer_type``: comma-separated types of layers, as PyTorch, Keras or ONNX call them. With both, a layer has to fit
    both. With neither, the default choice: layers with kernels, vanished modules, and the model's input if it is of
    floats. ``exclude``: patterns of layers to leave out, as ``layers``. Raises ModelError for a pattern or a type that
    no layer has, and if no layer is left.
    """
    candidates = [site for site in sites if site.site is side]
    if exclude is not None:
        excluded = [site for pattern in _entries(exclude) for site in _named(candidates, pattern, prefer_default=False)]
        remaining = [site for site in candidates if site not in excluded]
        if not remaining:
            raise ModelError(f"`exclude` {exclude!r} leaves no layer of {len(candidates)}; exclude fewer")
        return select_sites(remaining, layers, layer_type, side)
    if layers is None and layer_type is None:
        return tuple(filter(_is_default, candidates))
    chosen = candidates
    if layer_type is not None:
        of_type = [site for name in _entries(layer_type) for site in _of_type(candidates, name)]
        chosen = [site for site in candidates if site in of_type]
    if layers is not None:
        named = [site for pattern in _entries(layers) for site in _named(candidates, pattern, layer_type is None)]
        chosen = [site for site in chosen if site in named]
    if not chosen:
        wanted = f"of type {layer_type!r} and named {layers!r}" if layer_type and layers else "named in an empty list"
        raise ModelError(f"no layer is {wanted}; see them all with inspect --neurons --layers '*'")
    return tuple(chosen)


def _of_type(sites: Sequence[NeuronSite], name: str) -> list[NeuronSite]:
    """Return the sites of a type of layer; nodes only where no module is of that type."""
    fitting = [site for site in sites if same_kind(name, site.kind) or same_kind(name, site.operator)]
    if not fitting:
        known = nearest(name, dict.fromkeys(site.kind for site in sites))
        raise ModelError(f"`layer_type`: no layer is of type {name!r}; the nearest are {known}")
    return [site for site in fitting if site.role != "node"] or fitting


def _named(sites: Sequence[NeuronSite], pattern: str, prefer_default: bool) -> list[NeuronSite]:
    """Return the sites that a pattern matches as a whole; else those whose names it is part of, default ones first."""
    matching = [site for site in sites if fnmatchcase(site.layer, pattern)]
    containing = [site for site in sites if pattern in site.layer]
    if not matching and not containing:
        known = nearest(pattern, (site.layer for site in sites))
        raise ModelError(f"no layer matches {pattern!r}; the nearest are {known}")
    return matching or [site for site in containing if prefer_default and _is_default(site)] or containing


def _is_default(site: NeuronSite) -> bool:
    return site.role in ("kernel", "vanished") or (site.role == "input" and site.format.is_float)


def _entries(text: str | None) -> list[str]:
    """Return the entries of a comma-separated list."""
    return [entry for entry in (entry.strip() for entry in (text or "").split(",")) if entry]
