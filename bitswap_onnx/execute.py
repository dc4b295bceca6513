"""Runs what a store still lacks: first the null controls, then the injections, each finished unit committed."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bitswap_onnx.errors import ControlFailedError, InterruptedRunError, RunError
from bitswap_onnx.outcome import Counts, Golden, judge
from bitswap_onnx.plan import Chunk, chunks
from bitswap_onnx.prepare import Setup
from bitswap_onnx.runtime.pool import Pool, Unit
from bitswap_onnx.store import Store, Task


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a campaign is: ``done`` of ``total`` units of a ``stage``; sums over the inferences so far."""

    stage: str
    done: int
    total: int
    inferences: int = 0
    critical: int = 0


#: Where a run keeps what its workers read, while it is under way.
SCRATCH = "campaign.scratch"

OnProgress = Callable[[Progress], None]


def execute(
    store: Store, setup: Setup, golden: Golden, workers: int, on_progress: OnProgress | None, stop: threading.Event
) -> None:
    """Run what the store still lacks: first the null controls, then the injections."""
    parts = chunks(len(golden.scores), store.setting("unit_length"))
    report = on_progress or (lambda progress: None)
    if not any(store.open_controls(chunk) for chunk in parts) and _is_complete(store, parts):
        return
    with Pool(_worker_settings(store, setup, golden), workers) as pool:
        _run_controls(store, pool, parts, report, stop)
        _run_injections(store, pool, parts, golden, report, stop)
    if not _is_complete(store, parts):
        raise InterruptedRunError(f"stopped; everything finished is saved: continue with --resume --out {store.run}")


def _is_complete(store: Store, parts: tuple[Chunk, ...]) -> bool:
    return all(next(store.open_injections(chunk, page=1), None) is None for chunk in parts)


def _worker_settings(store: Store, setup: Setup, golden: Golden) -> dict[str, Any]:
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
    return {
        "model": str(setup.path.resolve()),
        "sha256": setup.model.sha256,
        "scratch": str(scratch.resolve()),
        "labels": golden.labels is not None,
        "numerics": setup.numerics.as_dict(),
        "output": setup.output,
        "criterion": asdict(golden.criterion),
        "records": store.setting("identity")["records"],
    }


def _run_controls(
    store: Store, pool: Pool, parts: tuple[Chunk, ...], report: OnProgress, stop: threading.Event
) -> None:
    tasks = [(task, chunk) for chunk in parts for task in store.open_controls(chunk)]
    for done, result in enumerate(pool.run(map(_unit, *zip(*tasks, strict=True)) if tasks else (), stop), 1):
        masked = result.counts["masked"]
        assert masked is not None
        store.add_control(result.unit.key, result.unit.chunk, masked)
        report(Progress("null controls", done, len(tasks)))
    failed = store.failed_controls()
    if failed:
        tensors, unmasked = failed[0]
        raise ControlFailedError(
            f"null control failed: without any fault, rewriting {tensors} changed {unmasked} outputs "
            f"({len(failed)} faulty paths affected); results would be wrong, none are written"
        )


def _run_injections(
    store: Store, pool: Pool, parts: tuple[Chunk, ...], golden: Golden, report: OnProgress, stop: threading.Event
) -> None:
    total = store.injections * len(parts)
    sums = store.totals()
    done = store.query("SELECT COUNT(*) FROM outcome").fetchone()[0]
    inferences, critical = sums["inputs"] or 0, sums["critical"] or 0

    def advance(chunk: Chunk, counts: Counts) -> None:
        nonlocal done, inferences, critical
        done, inferences, critical = done + 1, inferences + len(chunk), critical + (counts["critical"] or 0)
        report(Progress("injections", done, total, inferences, critical))

    def units() -> Iterator[Unit]:
        for chunk, task in ((part, task) for part in parts for task in store.open_injections(part)):
            if stop.is_set():
                return
            if task.changes:
                yield _unit(task, chunk)
            else:
                advance(chunk, _add_unchanged(store, task, chunk, golden))

    for result in pool.run(units(), stop):
        store.add_outcome(result.unit.key, result.unit.chunk, result.counts, result.blobs)
        advance(result.unit.chunk, result.counts)


def _unit(task: Task, chunk: Chunk) -> Unit:
    return Unit(task.key, task.label, task.edits, chunk)


def _add_unchanged(store: Store, task: Task, chunk: Chunk, golden: Golden) -> Counts:
    """Commit the outcome of an injection that the weights already satisfy: masked everywhere, without running it."""
    part = golden.slice(chunk.first, chunk.stop)
    outcomes = judge(part, part.scores)
    blobs = {"per_input": outcomes.encoded(), "scores": part.scores.astype(np.float32).tobytes()}
    wanted = store.setting("identity")["records"]
    store.add_outcome(task.key, chunk, outcomes.counts, {name: blobs[name] for name in wanted})
    return outcomes.counts
