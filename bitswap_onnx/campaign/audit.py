"""The audit: some injections of a finished campaign run once more, as whole models on the reference engine.

It looks where engines differ first: faults in the top exponent bit and nonfinite outcomes, then critical, changed and
masked ones, each from another layer as far as there are any. Every count must be the one in the store.
"""

import math
import re
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from random import Random

import numpy as np

from bitswap_onnx.campaign.store import Store
from bitswap_onnx.data.chunks import Chunk, chunks
from bitswap_onnx.errors import BitswapError, ControlFailedError
from bitswap_onnx.outcome import COUNTS
from bitswap_onnx.runtime.messages import Unit, Work
from bitswap_onnx.runtime.pool import Pool


@dataclass(frozen=True, slots=True)
class Audit:
    """How many injections to run again: ``number`` of them, or that ``share`` of all."""

    number: int = 10
    share: float | None = None

    def size(self, injections: int) -> int:
        """Return how many of ``injections`` to run again."""
        return min(injections, self.number if self.share is None else math.ceil(self.share * injections))


#: Ten injections.
DEFAULT_AUDIT = Audit()


def parse_audit(text: str) -> Audit:
    """Return the audit that ``10``, ``5%`` or ``0`` asks for; raises BitswapError for anything else."""
    match = re.fullmatch(r"([0-9]{1,9})|([0-9]{1,3}(?:\.[0-9]+)?)%", text)
    if match is None or (match[2] and float(match[2]) > 100):
        raise BitswapError(f"--audit: expected a number of injections (10), a share (5%) or 0, found {text!r}")
    return Audit(int(match[1])) if match[1] else Audit(share=float(match[2]) / 100)


def is_due(store: Store, audit: Audit) -> bool:
    """Whether a campaign has outcomes of the incremental engine that ``audit`` has not looked at."""
    done = store.setting("audit")
    size = audit.size(_changing(store))
    return bool(store.setting("incremental")) and size > (len(done["checked"]) if done else 0)


def run_audit(
    store: Store, pool: Pool, audit: Audit, report: Callable[[int, int], None], stop: threading.Event
) -> None:
    """Run injections again, each over one chunk of inputs, and commit what was found.

    Raises ControlFailedError if a count differs. Once ``stop`` is set it ends, and nothing is committed.
    """
    chosen = _choose(store, audit.size(_changing(store)))
    paths, waiting = store.paths(), list(chosen)
    different: list[str] = []

    def take(worker: int) -> Unit | None:
        if not waiting:
            return None
        position, path, chunk = waiting.pop(0)
        work = Work(chunk, path, (position,), control=False)
        return Unit(work, f"audit of {_id(store, position)}", paths[path], [store.edits(position, chunk)], "reference")

    checked: list[str] = []
    for done, (unit, result) in enumerate(pool.run(take, stop), 1):
        (position,), chunk = unit.work.positions, unit.work.chunk
        columns = f"inputs, {', '.join(COUNTS)}, per_input, scores"
        query = f"SELECT {columns} FROM outcome WHERE position = ? AND first = ?"
        (stored,) = store.query(query, (position, chunk.first))
        blobs = result.blobs[0]
        counts = tuple(result.counts[0][name] for name in ("inputs", *COUNTS))
        *stored_counts, per_input, scores = stored
        same = counts == tuple(stored_counts) and blobs.get("per_input") == per_input
        if not (same and _same_scores(blobs.get("scores"), scores)):
            different.append(f"{_id(store, position)} over the inputs {chunk.first} to {chunk.stop - 1}")
        checked.append(_id(store, position))
        report(done, len(chosen))
    if stop.is_set() and not different:
        return
    store.put("audit", {"checked": checked, "different": different})
    refuse_failed(store)


def refuse_failed(store: Store) -> None:
    """Raise ControlFailedError if an audit of this campaign found a difference."""
    done = store.setting("audit")
    if done and done["different"]:
        raise ControlFailedError(
            f"{store.run}: the audit failed: the incremental engine counts otherwise than the reference engine for "
            f"injection {done['different'][0]} ({len(done['different'])} of {len(done['checked'])} differ); this run is "
            "invalid: start again with another --out and --engine reference, and please report it"
        )


def _same_scores(again: bytes | None, stored: bytes | None) -> bool:
    """Whether two records of scores (float32) are equal, NaN to NaN."""
    if again is None or stored is None:
        return again is stored
    return np.array_equal(np.frombuffer(again, np.float32), np.frombuffer(stored, np.float32), equal_nan=True)


def _changing(store: Store) -> int:
    return int(store.query("SELECT COUNT(*) FROM injection WHERE changes").fetchone()[0])


def _id(store: Store, position: int) -> str:
    return str(store.query("SELECT id FROM injection WHERE position = ?", (position,)).fetchone()[0])


def _choose(store: Store, size: int) -> list[tuple[int, int, Chunk]]:
    """Return (position, path, chunk) of the injections to run again, the most telling first."""
    rows = store.query(
        "SELECT i.position, i.path, SUM(o.nonfinite) > 0 OR EXISTS (SELECT 1 FROM receipt r WHERE r.position = i.position"
        " AND r.bit_class = 'exponent' AND r.bit = 4 * (LENGTH(r.clean_bits) - 2) - 2), SUM(o.critical) > 0,"
        " SUM(o.non_critical) > 0 FROM injection i JOIN outcome o ON o.position = i.position WHERE i.changes"
        " GROUP BY i.position"
    )
    kinds: list[dict[int, list[int]]] = [{}, {}, {}, {}]  # telling, critical, changed, masked: path → positions
    for position, path, *marks in rows:
        kind = marks.index(1) if 1 in marks else len(marks)
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
    """Return the chunk over which an injection did most; of equal ones, any.

    For every other injection, each chunk in its turn, the last one first: where effects are lost, there seem to be none.
    """
    query = "SELECT first, nonfinite, critical, non_critical FROM outcome WHERE position = ? ORDER BY first"
    rows = store.query(query, (position,)).fetchall()
    if number % 2:
        first, *_ = rows[-1 - number // 2 % len(rows)]
    else:
        first, *_ = max(rows, key=lambda row: (*row[1:], draw.random()))
    parts = chunks(store.setting("golden")["inputs"], store.setting("unit_length"))
    return next(chunk for chunk in parts if chunk.first == first)
