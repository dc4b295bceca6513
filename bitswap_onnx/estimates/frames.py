"""How a list was drawn that ran: the strata of its design."""

from pathlib import Path

from bitswap_onnx.campaign.run_directory import reading
from bitswap_onnx.errors import RunError
from bitswap_onnx.estimates.read import list_fingerprints
from bitswap_onnx.faults.fault import Kind
from bitswap_onnx.sampling.design import Design, design_path, parse_design, read_design
from bitswap_onnx.sampling.strata import parts_of
from bitswap_onnx.stats.stratified import Strata


def listed_strata(source: Path, design: str | Path | Strata | None) -> Strata | None:
    """Return how the list of a run directory or a results file was drawn.

    ``design``: that itself, or the file that says it; None: what a run was begun with, or lies beside a file, if anything.
    Raises RunError for the design of another list.
    """
    if isinstance(design, Strata):
        return design
    if design is None and source.is_dir():
        with reading(source) as store:
            text = store.setting("design")
        return None if text is None else _strata(parse_design(text, str(source)))
    if design is None and not design_path(source).is_file():
        return None
    design = design or design_path(source)
    found = read_design(design)
    if found.list_sha256 not in list_fingerprints(source):
        raise RunError(f"{design}: the design of another list than that of {source}, by its hash; give that list's own")
    return _strata(found)


def _strata(design: Design) -> Strata:
    flips = design.request.kinds == (Kind.FLIP,) and design.request.multiplicity == 1
    names, sizes, populations = zip(*((one.name, one.size, one.population) for one in design.strata), strict=True)
    parts = parts_of(design.sampled, design.request.pattern)
    return Strata(names, sizes, populations, design.population if flips else None, parts=parts)
