"""How a list was drawn that ran: the strata of its design."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bitswap_onnx.campaign.adaptive_list import GROWTH_NAME
from bitswap_onnx.campaign.records import InterimEstimate
from bitswap_onnx.campaign.run_directory import reading
from bitswap_onnx.campaign.store import Store
from bitswap_onnx.errors import RunError
from bitswap_onnx.faults.fault import Injection, Kind
from bitswap_onnx.faults.fault_list import list_fingerprint, read_fault_list
from bitswap_onnx.sampling.design import ListDesign, design_path, parse_design, read_design
from bitswap_onnx.sampling.rounds import Round, choose_strata
from bitswap_onnx.sampling.strata import StratumPart, parts_of
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


def _strata(design: ListDesign) -> Strata:
    flips = design.request.kinds == (Kind.FLIP,) and design.request.multiplicity == 1
    names, sizes, populations = zip(*((one.name, one.size, one.population) for one in design.strata), strict=True)
    parts = parts_of(design.sampled, design.request.pattern)
    return Strata(names, sizes, populations, design.population if flips else None, parts=parts)


#: The setting of a store with all of it.
RECORD = "until"


def rounds_of(record: dict[str, Any]) -> list[Round]:
    """Return the rounds so far."""
    return [Round(one["draws"], one["probabilities"] and tuple(one["probabilities"])) for one in record["rounds"]]


def interim_estimates_of(record: dict[str, Any]) -> list[InterimEstimate]:
    """Return what was known after each round."""
    return [InterimEstimate(**one) for one in record["looks"]]


def drawn_strata(store: Store) -> tuple[Strata | None, tuple[str, ...]]:
    """Return the strata of a store's injections, and what a reader has to know; None and nothing if it drew none itself."""
    record = store.setting(RECORD)
    if record is None:
        return None, ()
    pieces = choose_strata(rounds_of(record), record["populations"], record["seed"], with_replacement=record["again"])
    order = np.concatenate([piece.strata for own in pieces for piece in own])
    sizes = np.bincount(order, minlength=len(record["strata"])).tolist()
    bits = sum(record["populations"]) if record["kinds"] == [Kind.FLIP] else None
    parts = tuple(
        StratumPart(number, layer, name, tuple(own), each) for number, layer, name, own, each in record["parts"]
    )
    strata = Strata(
        tuple(record["strata"]), tuple(sizes), tuple(record["populations"]), bits, tuple(order.tolist()), parts
    )
    last = interim_estimates_of(record)[-1]
    low, mean, high = (f"{100 * share:.4g}" for share in (last.low, last.mean, last.high))
    looked = "which allows for" if record["scheme"] == "stratified" else "which does not allow for"
    note = (
        f"faults were drawn until {last.goal}: {mean} % [{low}, {high}] after {last.injections:,} of them, {looked} having "
        f"looked after each round ({store.run / GROWTH_NAME}); the intervals here are those of a plan made beforehand"
    )
    return strata, (note,)


def list_fingerprints(source: Path) -> tuple[str, ...]:
    """Return what the fingerprint of a source's fault list may be.

    Of a file, that of the list as it stands, or without the role that faults have by default: our results name every
    parameter, lists need not.
    """
    if source.is_dir():
        with reading(source) as store:
            return (store.setting("identity")["faults"],)
    injections = read_fault_list(source)
    plain = (
        Injection(one.id, tuple(replace(f, parameter=None) if f.parameter == "weight" else f for f in one.faults))
        for one in injections
    )
    return tuple([digest for _, digest in list_fingerprint(some)][-1] for some in (injections, plain))
