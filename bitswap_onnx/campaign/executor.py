"""Runs what a store still lacks, each finished unit committed: null controls, injections, and in the end the audit."""

import threading
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import numpy as np

from bitswap_onnx.campaign.audit import Audit, is_due, refuse_failed, run_audit
from bitswap_onnx.campaign.options import Progress, RunOptions
from bitswap_onnx.campaign.schedule import LARGEST_UNIT, Lot, Queue, Schedule, make_lots
from bitswap_onnx.campaign.setup import Setup
from bitswap_onnx.campaign.store import Store
from bitswap_onnx.data.chunks import Chunk, chunks
from bitswap_onnx.errors import ControlFailedError, InterruptedRunError, RunError
from bitswap_onnx.outcome import Golden, judge
from bitswap_onnx.runtime.candidates import WHOLE
from bitswap_onnx.runtime.messages import Engine, Unit
from bitswap_onnx.runtime.pool import Pool
from bitswap_onnx.runtime.worker_settings import WorkerSettings

#: Scores that one unit may keep, in bytes.
_SCORE_BYTES = 1 << 26

#: A list that still grows is taken to become this many times as long: campaigns go on to some twenty times the pilot, which
#: alone is too short for a search of lanes (ResNet20, critical to 0.23 points: this saves a sixth of all time).
_TO_COME = 4

#: Where a run keeps what its workers read, while it is under way.
SCRATCH = "campaign.scratch"


@dataclass(eq=False)
class Executor:
    """Runs what a ``store`` lacks, as often as it is asked: what its workers know stays from one time to the next.

    Use it as a context manager; its end ends the workers. Each finished unit is committed; setting ``stop`` ends a run after
    the units at hand.
    """

    store: Store
    setup: Setup
    golden: Golden
    options: RunOptions
    stop: threading.Event
    _pool: Pool | None = field(default=None, init=False)
    _lanes: dict[int, int | None] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._engine: Engine = "reference" if self.options.engine == "reference" else "incremental"
        self._workers_wanted = self.options.worker_count(self.setup.numerics.provider)
        self._chunks = chunks(len(self.golden.scores), self.store.unit_length)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.__exit__(kind, error, trace)

    def run(self, *, audited: bool = True) -> None:
        """Run what is left of the list and, if it is to be ``audited``, the audit.

        Raises ControlFailedError if a null control or the audit does not hold, InterruptedRunError after ``stop``.
        """
        store, audit = self.store, self.options.audit_size if audited else Audit(0)
        _refuse_failed_controls(store)
        refuse_failed(store)
        _add_unchanged(store, self._chunks, self.golden)
        queue = store.queue()
        if not _all_done(self._left(queue)):  # a finished run keeps the controls that it had
            store.use_engine(self._engine)
            self._run_lots(self._workers(queue), self._left(queue))
        if not self.stop.is_set() and is_due(store, audit):
            pool = self._pool or self._workers(queue)
            run_audit(store, pool, audit, lambda done, total: self._report(Progress("audit", done, total)), self.stop)
        if self.stop.is_set() and (is_due(store, audit) or not _all_done(self._left(queue))):
            raise InterruptedRunError(
                f"stopped; everything finished is saved: continue with `resume` `run` {store.run}"
            )

    def _left(self, queue: Queue) -> list[Lot]:
        return make_lots(self._chunks, queue, self.store.finished, self.store.controlled)

    def _workers(self, queue: Queue) -> Pool:
        """Return the workers, who know which paths are likely to have how many batches, now that this is the list."""
        paths = dict(self._paths(queue))
        if self._pool is None:
            self._pool = Pool(self._worker_settings(paths), self._workers_wanted).__enter__()
        elif self._pool.settings.paths != paths:
            self._pool.expect(paths)
            # that a path runs as the whole model may have been for want of batches
            self._lanes = {path: lane for path, lane in self._lanes.items() if lane != WHOLE}
        return self._pool

    def _worker_settings(self, paths: dict[tuple[str, ...], int]) -> WorkerSettings:
        """Write the files that all workers read into the run's scratch folder, and return the workers' settings."""
        setup, golden, scratch = self.setup, self.golden, self.store.run / SCRATCH
        try:
            scratch.mkdir(exist_ok=True)
            setup.dataset.save(scratch / "inputs.npy")
            np.save(scratch / "golden.npy", golden.scores)
            if golden.labels is not None:
                np.save(scratch / "labels.npy", golden.labels)
        except OSError as error:
            raise RunError(f"{scratch}: cannot write the prepared inputs: {error.strerror}; free some space") from None
        return WorkerSettings(
            model=str(setup.path.resolve()),
            sha256=setup.model.sha256,
            scratch=str(scratch.resolve()),
            has_labels=golden.labels is not None,
            numerics=setup.numerics,
            output=setup.output,
            criterion=golden.criterion,
            records=self.store.identity.records,
            memory=self.options.memory_bytes // max(self._workers_wanted, 1),
            paths=paths,
        )

    def _paths(self, queue: Queue) -> list[tuple[tuple[str, ...], int]]:
        """Return the faulty paths, each with the number of batches it is likely to run in all."""
        inputs, batch_size = len(self.golden.scores), self.setup.numerics.batch_size
        length = self.store.unit_length
        batches = Counter[int]()
        for first, paths in queue.items():
            over = inputs if first is None else min(length, inputs - first)
            batches.update({path: len(positions) * -(-over // batch_size) for path, positions in paths.items()})
        times = _TO_COME if self.store.is_growing else 1
        return [(tensors, times * batches[number]) for number, tensors in self.store.paths().items()]

    def _run_lots(self, pool: Pool, lots: list[Lot]) -> None:
        """Run null controls and injections; each finished unit is committed."""
        store = self.store
        store.begin_injections(self._engine == "incremental")
        schedule = Schedule(lots, largest=_largest_unit(store, lots))
        paths = store.paths()
        kinds: dict[str, str] = store.lanes or {}

        def take(worker: int) -> Unit | None:
            work = schedule.take(worker)
            if work is None:
                return None
            tensors = paths[work.path]
            edits = [store.edits(position, work.chunk) for position in work.positions]
            label = f"faults in {store.label(work.path)}"
            lane, whole = self._lanes.get(work.path), work.path in store.given_up
            return Unit(work, label, tensors, edits, self._engine, lane, whole)

        done, inferences, critical = _tally(store)
        total, injections = done + sum(len(lot.positions) for lot in lots), store.injections
        for unit, result in pool.run(take, self.stop):
            work = unit.work
            if work.path in store.given_up and not unit.whole:
                continue  # begun before its lane was given up
            if result.lane_kind != "whole" and result.control not in (None, len(work.chunk)):
                schedule.again(work.path, self._give_up(work.path))
                done, inferences, critical = _tally(store)
                continue
            self._lanes[work.path] = result.lane_number
            if kinds.get(name := ", ".join(unit.path)) != result.lane_kind:
                kinds[name] = result.lane_kind
                store.keep_lanes(kinds)
            schedule.learn(work, result.seconds)
            held = [] if result.control is None else [(work.path, result.control, result.lane_kind)]
            outcomes = list(zip(work.positions, result.counts, result.blobs, strict=bool(result.counts)))
            store.add(work.chunk, outcomes, held)
            if result.control not in (None, len(work.chunk)):
                _refuse_failed_controls(store)
            done += len(outcomes)
            inferences += sum(counts["inputs"] or 0 for counts in result.counts)
            critical += sum(counts["critical"] or 0 for counts in result.counts)
            exactly = done * injections / total
            self._report(Progress("injections", int(exactly), injections, inferences, critical, exactly))

    def _give_up(self, path: int) -> list[Lot]:
        """Give up the lane of a path, whose null control failed, and what it committed; return what is to run instead."""
        self.store.give_up(path)
        self._lanes.pop(path, None)
        queue = {block: {path: paths[path]} for block, paths in self.store.queue().items() if path in paths}
        return self._left(queue)

    def _report(self, progress: Progress) -> None:
        if self.options.on_progress is not None:
            self.options.on_progress(progress)


def _tally(store: Store) -> tuple[int, int, int]:
    """Return how many outcomes there are, over how many inferences, and how many of these are critical."""
    sums = store.totals()
    return store.outcomes, sums["inputs"] or 0, sums["critical"] or 0


def _all_done(lots: list[Lot]) -> bool:
    return all(lot.is_done for lot in lots)


def _largest_unit(store: Store, lots: list[Lot]) -> int:
    """Return how many injections a unit may have, so that the scores it keeps, if any are wanted, stay small."""
    if "scores" not in store.identity.records:
        return LARGEST_UNIT
    row: int = max(len(lot.chunk) for lot in lots) * store.golden.values_per_input * 4
    return max(1, min(LARGEST_UNIT, _SCORE_BYTES // row))


def _refuse_failed_controls(store: Store) -> None:
    failed = store.failed_controls()
    if failed:
        path, unmasked = failed[0]
        raise ControlFailedError(
            f"null control failed: without any fault, the way of faults in {store.label(path)} changed {unmasked} outputs "
            f"({len(failed)} faulty paths affected); results would be wrong, none are written"
        )


def _add_unchanged(store: Store, parts: tuple[Chunk, ...], golden: Golden) -> None:
    """Commit the outcomes of injections that the weights already satisfy: masked everywhere, without running them."""
    wanted = store.identity.records
    for chunk in parts:
        positions = store.unchanged(chunk)
        if positions:
            part = golden.take(slice(chunk.first, chunk.stop))
            outcomes = judge(part, part.scores)
            counts = {**outcomes.counts, "inputs": len(chunk)}
            blobs = {"per_input": outcomes.encoded(), "scores": part.scores.astype(np.float32).tobytes()}
            kept = {name: blobs[name] for name in wanted}
            store.add(chunk, [(position, counts, kept) for position in positions])
