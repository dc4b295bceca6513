"""The strata that the injections of a source were drawn from: by the design of its list, or by the campaign itself."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from bitswap_onnx.campaign.adaptive_list import INTERIM_ESTIMATES_NAME
from bitswap_onnx.campaign.store import Store
from bitswap_onnx.campaign.stored_settings import NOT_KEPT
from bitswap_onnx.errors import RunError
from bitswap_onnx.estimates.source import Source
from bitswap_onnx.faults.fault import Fault, Injection, Kind
from bitswap_onnx.faults.fault_list import list_fingerprint, read_fault_list
from bitswap_onnx.sampling.design import ListDesign, design_path, parse_design, read_design
from bitswap_onnx.sampling.rounds import choose_strata
from bitswap_onnx.sampling.strata import parts_of
from bitswap_onnx.stats.stratified import Strata


def find_strata(source: Source, design: str | Path | Strata | None) -> Strata | None:
    """Return the strata that the injections of ``source`` were drawn from, None if nothing says so.

    ``design``: these strata, or the file of the design. None: the design that the run was begun with, the rounds of a
    campaign that drew its own faults, or the design beside a results file. Raises RunError for the design of another
    list, in a file that is given or lies beside the results.
    """
    if isinstance(design, Strata):
        return design
    if design is None and source.store is not None and source.store.design is None:
        return _of_record(source.store)
    read = _find_design(source, design)
    return None if read is None else _of_design(read)


def population_notes(source: Source, design: str | Path | Strata | None) -> tuple[str, ...]:
    """Return how many of the model's stored bits the rates stand for, where that is known; ``design`` as above."""
    if isinstance(design, Strata):
        return ()
    if design is None and source.store is not None:
        covered = source.store.coverage
    else:
        read = _find_design(source, design)
        covered = None if read is None else read.coverage
    return () if covered is None else (covered.text,)


def _find_design(source: Source, design: str | Path | None) -> ListDesign | None:
    """Return the design of a source's list: from the file ``design``, the run, or beside the file; None without one.

    A results file has the design that lies beside it, else that of the run it lies in if its faults are still the run's.
    """
    if design is None and not (source.store is None and design_path(source.path).is_file()):
        run = source.store or source.beside
        if run is None or run.design is None:
            return None
        read = parse_design(run.design, str(run.run))
        return read if source.store or read.list_sha256 in _list_hashes(source) else None
    design = design or design_path(source.path)
    read = read_design(design)
    if read.list_sha256 not in _list_hashes(source):
        raise RunError(f"{design}: the design of another list than that of {source}, by its hash; give that list's own")
    return read


def design_notes(source: Source) -> tuple[str, ...]:
    """Return why a source has no design although one lay beside its list, or lies in its run."""
    run = source.store or source.beside
    if run is None:
        return ()
    if run.design is not None:
        return (f"{source}: its faults are no longer those that the design of {run.run} is of, by their hash",)
    return tuple(note for note in run.notes if note.endswith(NOT_KEPT))


def drawing_notes(source: Source) -> tuple[str, ...]:
    """Return what a reader of the rates has to know where the campaign drew its own faults."""
    record = None if source.store is None else source.store.drawing
    if record is None:
        return ()
    last = record.interim_estimates[-1]
    low, mean, high = (f"{100 * share:.4g}" for share in (last.low, last.mean, last.high))
    allows = "allows" if record.scheme == "stratified" else "does not allow"
    return (
        f"faults were drawn until {last.goal}: {mean} % [{low}, {high}] after {last.injections:,} faults; that interval "
        f"{allows} for an estimate after each round ({source.path / INTERIM_ESTIMATES_NAME}), the intervals here are those "
        "of a sample of fixed size",
    )


def _of_record(store: Store) -> Strata | None:
    """Return the strata of a campaign that drew its own faults, with the stratum of each injection."""
    record = store.drawing
    if record is None:
        return None
    rounds = choose_strata(record.rounds, record.populations, record.seed, with_replacement=record.with_replacement)
    order = np.concatenate([piece.strata for pieces in rounds for piece in pieces])
    sizes = np.bincount(order, minlength=len(record.strata)).tolist()
    bits = sum(record.populations) if record.kinds == (Kind.FLIP,) else None
    return Strata(record.strata, tuple(sizes), record.populations, bits, tuple(order.tolist()), record.parts)


def _of_design(design: ListDesign) -> Strata:
    request = design.request
    single_flips = request.kinds == (Kind.FLIP,) and request.multiplicity == 1
    columns = ((stratum.name, stratum.size, stratum.population) for stratum in design.strata)
    names, sizes, populations = zip(*columns, strict=True)
    bits = design.population if single_flips else None
    return Strata(names, sizes, populations, bits, design.order, parts_of(design.sampled, request.pattern))


def _list_hashes(source: Source) -> tuple[str, ...]:
    """Return the hashes that the fault list of a source may have.

    A results file names every parameter, and the list that ran may have left out the default role ``weight``. So a file
    has two: the hash of its faults as they stand, and the hash without that role.
    """
    if source.store is not None:
        return (source.store.identity.faults,)
    injections = read_fault_list(source.path)
    unnamed = (Injection(listed.id, tuple(map(_without_default_role, listed.faults))) for listed in injections)
    return tuple([digest for _, digest in list_fingerprint(faults)][-1] for faults in (injections, unnamed))


def _without_default_role(fault: Fault) -> Fault:
    return replace(fault, parameter=None) if fault.parameter == "weight" else fault
