"""Two finished runs of the same faults on the same inputs, checked and read as pairs of injections.

Injections are partners if they have the same id, and the elements that they change have the same clean and faulty bits.
A data hash covers the inputs in the model's layout, so it differs between NCHW and NHWC; then dataset, source and
labels must agree.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.campaign.records import GoldenRecord
from bitswap_onnx.campaign.run_directory import reading
from bitswap_onnx.campaign.store import Store
from bitswap_onnx.campaign.store_queries import RecordedChange
from bitswap_onnx.errors import RunError
from bitswap_onnx.outcome import CRITICAL, MASKED, NON_CRITICAL, OUTCOME_NAMES, decode_outcomes

CountTable = NDArray[np.int64]

#: The counts that are read of every injection, in this order.
READ_COUNTS = ("inputs", *OUTCOME_NAMES, "nonfinite", "critical_nonfinite")

#: Settings that may differ. If one does, a note says that the difference is not that of two graphs alone.
_RUNTIME = ("providers", "machine", "versions")

_NAMED = 12


@dataclass(frozen=True, eq=False)
class RunPair:
    """The injections that both runs have, in A's order.

    ``counts_a`` and ``counts_b``: (injections, `READ_COUNTS`). ``tables``: (injections, 3, 3), the count of each pair
    of outcomes (rows A, columns B). With ``per_input`` every input is one count; otherwise the injection is one count,
    of the outcomes that most inputs have. ``finite_tables``: the same without inputs that are nonfinite in either run.
    ``golden_a`` and ``golden_b`` are the content of golden.json.
    """

    golden_a: dict[str, Any]
    golden_b: dict[str, Any]
    layers: NDArray[np.str_]
    partner_layers: NDArray[np.str_]
    bit_classes: NDArray[np.str_]
    counts_a: CountTable
    counts_b: CountTable
    tables: CountTable
    finite_tables: CountTable
    per_input: bool
    masked_comparable: bool
    unpaired_a: tuple[str, ...]
    unpaired_b: tuple[str, ...]
    checked: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Injection:
    id: str
    layer: str
    bit_class: str
    changes: tuple[str, ...]
    counts: tuple[int, ...]


def read_pair(run_a: Path, run_b: Path, allow_unpaired: bool = False) -> RunPair:
    """Read two finished runs.

    Raises RunError for an unfinished run, for a run with neuron faults, for runs over different inputs, labels, classes
    or criteria, for injections without a partner unless ``allow_unpaired``, and for runs that share no injection.
    """
    with reading(run_a) as store_a, reading(run_b) as store_b:
        for store in (store_a, store_b):
            store.check_complete()
            _refuse_neurons(store)
        checked, notes = _check_alike(store_a, store_b)
        all_a, all_b = dict(_injections(store_a)), dict(_injections(store_b))
        pairs = [(a, all_b[a.id]) for a in all_a.values() if a.id in all_b and all_b[a.id].changes == a.changes]
        shared = frozenset(a.id for a, _ in pairs)
        unpaired = [tuple(name for name in side if name not in shared) for side in (all_a, all_b)]
        _check_unpaired(unpaired, bool(pairs), allow_unpaired, store_a, store_b)
        per_input = all("per_input" in store.identity.records for store in (store_a, store_b))
        both_tables = [_recorded(store_a, store_b, *pair) if per_input else _prevailing(*pair) for pair in pairs]
        tables = np.array(both_tables, np.int64).reshape(-1, 2, 3, 3)
        golden_a, golden_b = ({**s.golden.stored(), "identity": s.identity.stored()} for s in (store_a, store_b))
    comparable = {golden_a.get("probabilities"), golden_b.get("probabilities")} != {True, False}
    return RunPair(
        golden_a,
        golden_b,
        layers=np.array([a.layer for a, _ in pairs]),
        partner_layers=np.array([b.layer for _, b in pairs]),
        bit_classes=np.array([a.bit_class for a, _ in pairs]),
        counts_a=np.array([a.counts for a, _ in pairs], np.int64),
        counts_b=np.array([b.counts for _, b in pairs], np.int64),
        tables=tables[:, 0],
        finite_tables=tables[:, 1],
        per_input=per_input,
        masked_comparable=comparable,
        unpaired_a=unpaired[0],
        unpaired_b=unpaired[1],
        checked=tuple(checked),
        notes=tuple(notes),
    )


def _refuse_neurons(store: Store) -> None:
    """Raise RunError for neuron faults: two models' neurons have different bits, so their faults have no partners."""
    layer = store.first_neuron_layer()
    if layer is not None:
        raise RunError(f"{store.run}: compare takes faults in stored parameters alone, found neurons of {layer}")


def _injections(store: Store) -> Iterator[tuple[str, _Injection]]:
    """Yield (id, injection) in the list's order; several layers or bit classes of an injection become ``several``."""
    changes: dict[str, list[RecordedChange]] = {}
    for recorded in store.changes():
        changes.setdefault(recorded.injection, []).append(recorded)
    for name, counts in store.counts_per_injection(READ_COUNTS):
        layer = _common_name(recorded.layer for recorded in changes[name])
        bit_class = _common_name(recorded.bit_class for recorded in changes[name])
        yield name, _Injection(name, layer, bit_class, tuple(sorted(entry.change for entry in changes[name])), counts)


def _common_name(names: Iterable[str]) -> str:
    """Return the name that all share: ``other`` if it is empty, ``several`` if they share none."""
    distinct = set(names)
    return distinct.pop() or "other" if len(distinct) == 1 else "several"


def _recorded(store_a: Store, store_b: Store, a: _Injection, b: _Injection) -> tuple[CountTable, CountTable]:
    """Return the tables of one injection, all inputs and finite inputs, from the outcomes recorded per input."""
    (code_a, nonfinite_a), (code_b, nonfinite_b) = _outcomes(store_a, a), _outcomes(store_b, b)
    codes = code_a * np.uint8(3) + code_b
    finite = ~(nonfinite_a | nonfinite_b)
    return _table(codes), _table(codes[finite])


def _outcomes(store: Store, injection: _Injection) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    return decode_outcomes(store.outcomes_of(injection.id))


def _table(codes: NDArray[np.uint8]) -> CountTable:
    return np.bincount(codes, minlength=9).reshape(3, 3)


def _prevailing(a: _Injection, b: _Injection) -> tuple[CountTable, CountTable]:
    """Return the tables of one injection, with one count: of the outcome that most inputs have in A, and in B."""
    tables = np.zeros((2, 3, 3), np.int64)
    for table, finite in zip(tables, (False, True), strict=True):
        table[_most(a.counts, finite), _most(b.counts, finite)] = 1
    return tables[0], tables[1]


def _most(counts: tuple[int, ...], finite: bool) -> int:
    named = dict(zip(READ_COUNTS, counts, strict=True))
    numbers = [named[name] for name in OUTCOME_NAMES]
    if finite:
        numbers[CRITICAL] -= named["critical_nonfinite"]
        numbers[NON_CRITICAL] -= min(named["nonfinite"] - named["critical_nonfinite"], numbers[NON_CRITICAL])
    order = (CRITICAL, NON_CRITICAL, MASKED)  # of equal counts, the more harmful outcome
    return max(order, key=lambda code: numbers[code])


def _check_unpaired(unpaired: list[tuple[str, ...]], some: bool, allowed: bool, store_a: Store, store_b: Store) -> None:
    if allowed and some:
        return
    parts = [
        f"{store.run} has {len(names)} without a partner ({', '.join(names[:_NAMED])}{', ...' * (len(names) > _NAMED)})"
        for store, names in zip((store_a, store_b), unpaired, strict=True)
        if names
    ]
    if parts or not some:
        remedy = (
            "leave them out with `allow_unpaired`"
            if some
            else (
                "compare needs models with the same weights, run with one list (faults convert carries it); for a model "
                "with other weights, estimate each run by itself"
            )
        )
        raise RunError(f"injections pair by id and by the bits they change: {'; '.join(parts)}; {remedy}")


def _check_alike(store_a: Store, store_b: Store) -> tuple[list[str], list[str]]:
    """Return the passed checks that both runs are over the same inputs, and notes on differences and open questions."""
    golden_a, golden_b = store_a.golden, store_b.golden
    identity_a, identity_b = store_a.identity, store_b.identity
    where = f"{store_a.run} and {store_b.run}"
    for key, word in (("inputs", "inputs"), ("values_per_input", "classes")):
        of_a, of_b = getattr(golden_a, key), getattr(golden_b, key)
        if of_a != of_b:
            raise RunError(f"{where}: expected runs over the same {word}, found {of_a} and {of_b}")
    if identity_a.tolerance != identity_b.tolerance:
        raise RunError(f"{where}: the runs differ in `criterion`; run both with the same one")
    if identity_a.inputs != identity_b.inputs:
        raise RunError(f"{where}: the runs differ in `inputs_per_injection` or `seed`; run both over the same inputs")
    checked, notes = _check_data(where, golden_a, golden_b, identity_a.data == identity_b.data)
    if identity_a.model == identity_b.model:
        notes.append("both runs are of one model file")
    differing = [key for key in _RUNTIME if getattr(golden_a, key) != getattr(golden_b, key)]
    numerics_a, numerics_b = identity_a.numerics.as_dict(), identity_b.numerics.as_dict()
    differing += [key for key in numerics_a if numerics_a[key] != numerics_b[key]]
    if differing:
        notes.append(
            f"not the graphs alone differ, also {', '.join(differing)}: the difference is that of all together"
        )
    return checked, notes


def _check_data(where: str, a: GoldenRecord, b: GoldenRecord, equal: bool) -> tuple[list[str], list[str]]:
    if equal:
        return ["inputs and labels are equal, by their hash"], []
    if a.dataset != b.dataset:
        raise RunError(f"{where}: expected runs over one dataset, found {a.dataset} and {b.dataset}")
    if a.dataset == "synthetic":
        raise RunError(f"{where}: their synthetic inputs differ, as they do between layouts; give both the same `data`")
    checked, notes = [f"{a.inputs} inputs of {a.dataset}"], []
    labels = [a.labels, b.labels]
    if None not in labels:
        if labels[0] != labels[1]:
            raise RunError(f"{where}: the inputs have other labels, or the same in another order")
        checked.append("labels are equal in their order, by their hash")
    elif a.data != b.data:
        raise RunError(f"{where}: cannot tell whether the inputs are the same: {a.data}; {b.data}")
    if a.data != b.data:
        notes.append(f"the inputs are described differently: A: {a.data}; B: {b.data}")
    notes.append("whether the pixels are equal could not be checked: their hashes differ, as they do between layouts")
    return checked, notes
