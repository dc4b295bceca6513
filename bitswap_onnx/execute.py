"""Runs what a store still lacks, each finished unit committed: null controls, injections, and in the end the audit."""

import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np

from bitswap_onnx.audit import DEFAULT_AUDIT, Audit, is_due, refuse_failed, run_audit
from bitswap_onnx.errors import ControlFailedError, InterruptedRunError, RunError
from bitswap_onnx.outcome import Golden, judge
from bitswap_onnx.plan import LARGEST_UNIT, Chunk, Lot, Schedule, chunks, make_lots
from bitswap_onnx.prepare import Setup
from bitswap_onnx.runtime.pool import Engine, Pool, Unit
from bitswap_onnx.store import Store


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a campaign is: ``done`` of ``total`` steps of a ``stage``; sums over the inferences so far."""

    stage: str
    done: int
    total: int
    inferences: int = 0
    critical: int = 0


#: Scores that one unit may keep, in bytes.
_SCORE_BYTES = 1 << 26

#: Where a run keeps what its workers read, while it is under way.
SCRATCH = "campaign.scratch"

OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class Execution:
    """How to run, which never changes a result: ``workers`` of one thread, together within ``memory`` bytes.

    ``lanes``: those that were found, by faulty path, so that a campaign of several rounds looks for each once. The whole
    model is not among them: a path with more to run may be worth another search.
    """

    engine: Literal["auto", "incremental", "reference"] = "auto"
    workers: int = 1
    memory: int = 1 << 32
    audit: Audit = DEFAULT_AUDIT
    lanes: dict[int, int | None] = field(default_factory=dict)


class Running(TypedDict, total=False):
    """How what runs a campaign hands on to `bitswap_onnx.campaign.run_campaign` how it is to run."""

    run: str | Path | None
    resume: bool
    workers: int | None
    engine: Literal["auto", "incremental", "reference"]
    memory: int | None
    audit: Audit
    on_progress: OnProgress | None
    on_notes: Callable[[Iterable[str]], None] | None
    stop: threading.Event | None


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> int:
    """Return the bytes of memory that are free, as far as the system tells."""
    info = Path("/proc/meminfo")
    match = re.search(r"MemAvailable:\s*(\d+) kB", info.read_text()) if info.is_file() else None
    return int(match[1]) * 1024 if match else 1 << 32


def execute(
    store: Store,
    setup: Setup,
    golden: Golden,
    execution: Execution,
    on_progress: OnProgress | None,
    stop: threading.Event,
) -> None:
    """Run what the store still lacks, and audit it.

    Raises ControlFailedError if a null control or the audit does not hold, InterruptedRunError after ``stop``.
    """
    parts = chunks(len(golden.scores), store.setting("unit_length"))
    report = on_progress or (lambda progress: None)
    engine: Engine = "reference" if execution.engine == "reference" else "incremental"
    _refuse_failed_controls(store)
    refuse_failed(store)
    _add_unchanged(store, parts, golden)

    def left() -> list[Lot]:
        return make_lots(parts, store.queue(), store.finished, store.controlled)

    def show(done: int, total: int) -> None:
        report(Progress("audit", done, total))

    if not all(lot.is_done for lot in left()):  # a finished run keeps the controls that it had
        store.use_engine(engine)
    lots = left()
    if all(lot.is_done for lot in lots) and not is_due(store, execution.audit):
        return
    with Pool(_worker_settings(store, setup, golden, execution), execution.workers) as pool:
        if not all(lot.is_done for lot in lots):
            _run(store, pool, lots, engine, execution.lanes, report, stop)
        if not stop.is_set() and is_due(store, execution.audit):
            run_audit(store, pool, execution.audit, show, stop)
    if stop.is_set() and (is_due(store, execution.audit) or not all(lot.is_done for lot in left())):
        raise InterruptedRunError(f"stopped; everything finished is saved: continue with --resume --out {store.run}")


def _worker_settings(store: Store, setup: Setup, golden: Golden, execution: Execution) -> dict[str, Any]:
    """Write what all workers read into the run's scratch folder and return the message that starts them."""
    scratch = store.run / SCRATCH
    try:
        scratch.mkdir(exist_ok=True)
        setup.dataset.save(scratch / "inputs.npy")
        np.save(scratch / "golden.npy", golden.scores)
        if golden.labels is not None:
            np.save(scratch / "labels.npy", golden.labels)
    except OSError as error:
        raise RunError(f"{scratch}: cannot write the prepared inputs: {error.strerror}; free some space") from None
    batches = _batches(store, len(golden.scores), setup.numerics.batch_size)
    return {
        "model": str(setup.path.resolve()),
        "sha256": setup.model.sha256,
        "scratch": str(scratch.resolve()),
        "labels": golden.labels is not None,
        "numerics": setup.numerics.as_dict(),
        "output": setup.output,
        "criterion": asdict(golden.criterion),
        "records": store.setting("identity")["records"],
        "memory": execution.memory // execution.workers,
        "paths": [(tensors, batches[number]) for number, tensors in store.paths().items()],
    }


def _batches(store: Store, inputs: int, batch_size: int) -> Counter[int]:
    """Return how many batches each faulty path is to run in all."""
    length = store.setting("unit_length")
    batches = Counter[int]()
    for first, paths in store.queue().items():
        over = inputs if first is None else min(length, inputs - first)
        batches.update({path: len(positions) * -(-over // batch_size) for path, positions in paths.items()})
    return batches


def _run(
    store: Store,
    pool: Pool,
    lots: list[Lot],
    engine: Engine,
    found: dict[int, int | None],
    report: OnProgress,
    stop: threading.Event,
) -> None:
    """Run null controls and injections; each finished unit is committed. ``found``: lanes, see `Execution`."""
    if engine == "incremental":
        store.put("incremental", True)
        store.put("audit", None)  # what an earlier one saw is no longer all
    schedule = Schedule(lots, largest=_largest_unit(store, lots))
    paths, lanes = store.paths(), dict(found)
    kinds: dict[str, str] = store.setting("lanes") or {}

    def take(worker: int) -> Unit | None:
        work = schedule.take(worker)
        if work is None:
            return None
        edits = [store.edits(position, work.chunk) for position in work.positions]
        return Unit(
            work, f"faults in {', '.join(paths[work.path])}", paths[work.path], edits, engine, lanes.get(work.path)
        )

    sums = store.totals()
    done = store.query("SELECT COUNT(*) FROM outcome").fetchone()[0]
    inferences, critical = sums["inputs"] or 0, sums["critical"] or 0
    total = done + sum(len(lot.positions) for lot in lots)
    for unit, result in pool.run(take, stop):
        work = unit.work
        lanes[work.path] = result.lane
        if result.kind != "whole":
            found[work.path] = result.lane
        if kinds.get(name := ", ".join(unit.path)) != result.kind:
            kinds[name] = result.kind
            store.put("lanes", kinds)
        schedule.learn(work, result.seconds)
        held = [] if result.control is None else [(work.path, result.control)]
        outcomes = list(zip(work.positions, result.counts, result.blobs, strict=bool(result.counts)))
        store.add(work.chunk, outcomes, held)
        if result.control not in (None, len(work.chunk)):
            _refuse_failed_controls(store)
        done += len(outcomes)
        inferences += sum(counts["inputs"] or 0 for counts in result.counts)
        critical += sum(counts["critical"] or 0 for counts in result.counts)
        report(Progress("injections", done, total, inferences, critical))


def _largest_unit(store: Store, lots: list[Lot]) -> int:
    """Return how many injections a unit may have, so that the scores it keeps, if any are wanted, stay small."""
    if "scores" not in store.setting("identity")["records"]:
        return LARGEST_UNIT
    row: int = max(len(lot.chunk) for lot in lots) * store.setting("golden")["values_per_input"] * 4
    return max(1, min(LARGEST_UNIT, _SCORE_BYTES // row))


def _refuse_failed_controls(store: Store) -> None:
    failed = store.failed_controls()
    if failed:
        tensors, unmasked = failed[0]
        raise ControlFailedError(
            f"null control failed: without any fault, the way of faults in {tensors} changed {unmasked} outputs "
            f"({len(failed)} faulty paths affected); results would be wrong, none are written"
        )


def _add_unchanged(store: Store, parts: tuple[Chunk, ...], golden: Golden) -> None:
    """Commit the outcomes of injections that the weights already satisfy: masked everywhere, without running them."""
    wanted = store.setting("identity")["records"]
    for chunk in parts:
        positions = store.unchanged(chunk)
        if positions:
            part = golden.take(slice(chunk.first, chunk.stop))
            outcomes = judge(part, part.scores)
            counts = {**outcomes.counts, "inputs": len(chunk)}
            blobs = {"per_input": outcomes.encoded(), "scores": part.scores.astype(np.float32).tobytes()}
            kept = {name: blobs[name] for name in wanted}
            store.add(chunk, [(position, counts, kept) for position in positions])
