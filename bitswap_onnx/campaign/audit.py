"""The audit: some injections of a finished campaign run once more, as whole models on the reference engine.

It takes one injection of each kind in turn: with a fault in the top exponent bit or nonfinite scores (where engines are most
likely to differ), critical, changed, masked. Within a kind it takes the faulty path that was audited least so far. Every
count must equal the stored one.
"""

import threading
from collections import Counter
from collections.abc import Callable
from itertools import cycle
from random import Random

import numpy as np

from bitswap_onnx.campaign.options import Audit
from bitswap_onnx.campaign.records import AuditRecord
from bitswap_onnx.campaign.store import Store
from bitswap_onnx.data.chunks import Chunk, chunks
from bitswap_onnx.errors import ControlFailedError
from bitswap_onnx.runtime.messages import Unit, Work
from bitswap_onnx.runtime.pool import Pool


def is_due(store: Store, audit: Audit) -> bool:
    """Whether the incremental engine ran injections and the last audit checked fewer of them than ``audit`` asks for."""
    done = store.audit
    return store.uses_incremental_engine and audit.size(store.changing) > (len(done.checked) if done else 0)


def run_audit(
    store: Store, pool: Pool, audit: Audit, report: Callable[[int, int], None], stop: threading.Event
) -> None:
    """Run injections again, each over one chunk of inputs, and commit what was found.

    Raises ControlFailedError if a count differs. Once ``stop`` is set it ends. Nothing is committed then,
    unless a count differed.
    """
    chosen = _choose(store, audit.size(store.changing))
    paths, waiting = store.paths(), list(chosen)
    different: list[str] = []

    def take(worker: int) -> Unit | None:
        if not waiting:
            return None
        position, path, chunk = waiting.pop(0)
        work = Work(chunk, path, (position,), control=False)
        return Unit(work, f"audit of {store.id_of(position)}", paths[path], [store.edits(position, chunk)], "reference")

    checked: list[str] = []
    for done, (unit, result) in enumerate(pool.run(take, stop), 1):
        (position,), chunk = unit.work.positions, unit.work.chunk
        stored, counts, records = store.outcome(position, chunk), result.counts[0], result.blobs[0]
        same = counts == stored.counts and records.get("per_input") == stored.per_input
        if not (same and _same_scores(records.get("scores"), stored.scores)):
            different.append(f"{store.id_of(position)} over the inputs {chunk.first} to {chunk.stop - 1}")
        checked.append(store.id_of(position))
        report(done, len(chosen))
    if stop.is_set() and not different:
        return
    store.keep_audit(AuditRecord(tuple(checked), tuple(different)))
    refuse_failed(store)


def refuse_failed(store: Store) -> None:
    """Raise ControlFailedError if an audit of this campaign found a difference."""
    audit = store.audit
    if audit and audit.different:
        raise ControlFailedError(
            f"{store.run}: the audit failed: the incremental engine counts otherwise than the reference engine for "
            f"injection {audit.different[0]} ({len(audit.different)} of {len(audit.checked)} differ); this run is "
            "invalid: start again in another `run` with `engine` reference, and please report it"
        )


def _same_scores(again: bytes | None, stored: bytes | None) -> bool:
    """Whether two records of scores (float32) are equal, NaN to NaN."""
    if again is None or stored is None:
        return again is stored
    return np.array_equal(np.frombuffer(again, np.float32), np.frombuffer(stored, np.float32), equal_nan=True)


def _choose(store: Store, size: int) -> list[tuple[int, int, Chunk]]:
    """Return (position, path, chunk) of the injections to run again, the kinds in turn."""
    kinds: list[dict[int, list[int]]] = [{}, {}, {}, {}]  # telling, critical, changed, masked: path → positions
    for position, path, *marks in store.audit_candidates():
        kind = marks.index(True) if True in marks else len(marks)
        kinds[kind].setdefault(path, []).append(position)
    draw = Random(0)
    for by_path in kinds:
        for positions in by_path.values():
            draw.shuffle(positions)
    used: Counter[int] = Counter()
    chosen: list[tuple[int, int, Chunk]] = []
    for by_path in cycle(kinds):
        if len(chosen) == size:
            return chosen
        if by_path:
            path = min(by_path, key=lambda number: used[number])
            position = by_path[path].pop()
            used[path] += 1
            if not by_path[path]:
                del by_path[path]
            chosen.append((position, path, _chunk(store, position, len(chosen), draw)))
    raise AssertionError("unreachable")


def _chunk(store: Store, position: int, number: int, draw: Random) -> Chunk:
    """Return the chunk over which an injection had most effect; of equal ones, any.

    Every other injection takes the chunks in turn instead, the last one first: a lost effect shows as no effect.
    """
    effects = store.effects(position)
    if number % 2:
        first, _ = effects[-1 - number // 2 % len(effects)]
    else:
        first, _ = max(effects, key=lambda effect: (*effect[1], draw.random()))
    return next(chunk for chunk in chunks(store.golden.inputs, store.unit_length) if chunk.first == first)
