"""Runs everything that a store still lacks: null controls, injections and the audit. Each finished unit is committed."""

import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import numpy as np

from bitswap_onnx.campaign.audit import is_due, refuse_failed, run_audit
from bitswap_onnx.campaign.options import Audit, Progress, RunOptions
from bitswap_onnx.campaign.schedule import LARGEST_UNIT, Lot, Queue, Schedule, make_lots
from bitswap_onnx.campaign.setup import Setup
from bitswap_onnx.campaign.store import Store
from bitswap_onnx.campaign.workers import CampaignWorkers
from bitswap_onnx.data.chunks import Chunk, chunks
from bitswap_onnx.errors import ControlFailedError, InterruptedRunError, amount
from bitswap_onnx.outcome import Golden, judge
from bitswap_onnx.runtime.lanes import FaultyPath
from bitswap_onnx.runtime.messages import Engine, Result, Unit, Work
from bitswap_onnx.runtime.pool import Pool

#: Scores that one unit may keep, in bytes.
_SCORE_BYTES = 1 << 26


@dataclass(eq=False)
class Executor:
    """Runs what a ``store`` lacks. It can run again after the list has grown: its workers and their lanes stay.

    Use it as a context manager; its end ends the workers. Setting ``stop`` ends a run after the units at hand.
    """

    store: Store
    setup: Setup
    golden: Golden
    options: RunOptions
    stop: threading.Event
    workers: CampaignWorkers = field(init=False)
    _paths: dict[int, FaultyPath] = field(default_factory=dict, init=False)
    _lane_kinds: dict[str, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.workers = CampaignWorkers(self.store, self.setup, self.golden, self.options)
        self._engine: Engine = "reference" if self.options.engine == "reference" else "incremental"
        self._chunks = chunks(len(self.golden.scores), self.store.unit_length)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.workers.__exit__(kind, error, trace)

    def run(self, *, audited: bool = True) -> None:
        """Run the rest of the list and, if it is to be ``audited``, the audit.

        Raises ControlFailedError if a null control or the audit does not hold, InterruptedRunError after ``stop``.
        """
        store, audit = self.store, self.options.audit_size if audited else Audit(0)
        _refuse_failed_controls(store)
        refuse_failed(store)
        _add_unchanged(store, self._chunks, self.golden)
        queue = store.queue()
        if not _all_done(self._remaining(queue)):  # a finished run keeps the controls that it had
            store.use_engine(self._engine)
            self._run_lots(self.workers.informed(queue), self._remaining(queue))
        if not self.stop.is_set() and is_due(store, audit):
            pool = self.workers.started(queue)
            run_audit(store, pool, audit, lambda done, total: self._report(Progress("audit", done, total)), self.stop)
        if self.stop.is_set() and (is_due(store, audit) or not _all_done(self._remaining(queue))):
            raise InterruptedRunError(
                f"stopped; everything finished is saved: continue with `resume` `run` {store.run}"
            )

    def _remaining(self, queue: Queue) -> list[Lot]:
        return make_lots(self._chunks, queue, self.store.finished, self.store.controlled)

    def _run_lots(self, pool: Pool, lots: list[Lot]) -> None:
        """Run null controls and injections."""
        store = self.store
        store.begin_injections(self._engine == "incremental")
        self._paths, self._lane_kinds = store.paths(), store.lanes or {}
        schedule = Schedule(lots, largest=_largest_unit(store, lots))
        done, inferences, critical = _tally(store)
        total, injections = done + sum(len(lot.positions) for lot in lots), store.injections
        for unit, result in pool.run(lambda worker: self._unit(schedule.take(worker)), self.stop):
            if unit.work.path in store.given_up and not unit.whole:
                continue  # begun before its lane was given up
            if result.lane_kind != "whole" and result.control not in (None, len(unit.work.chunk)):
                schedule.replace(unit.work.path, self._give_up(unit.work.path))
                done, inferences, critical = _tally(store)
                continue
            schedule.learn(unit.work, result.seconds)
            self._commit(unit, result)
            done += len(result.counts)
            inferences += sum(counts["inputs"] or 0 for counts in result.counts)
            critical += sum(counts["critical"] or 0 for counts in result.counts)
            exactly = done * injections / total
            self._report(Progress("injections", int(exactly), injections, inferences, critical, exactly))

    def _unit(self, work: Work | None) -> Unit | None:
        """Return what a worker needs for some work."""
        if work is None:
            return None
        store = self.store
        return Unit(
            work=work,
            label=f"faults in {store.label(work.path)}",
            path=self._paths[work.path],
            edits=[store.edits(position, work.chunk) for position in work.positions],
            engine=self._engine,
            lane_number=self.workers.lanes.get(work.path),
            whole=work.path in store.given_up,
        )

    def _commit(self, unit: Unit, result: Result) -> None:
        """Commit a unit's outcomes and null control; raises ControlFailedError for a control that does not hold."""
        work, store = unit.work, self.store
        self.workers.lanes[work.path] = result.lane_number
        path = ", ".join(unit.path)
        if self._lane_kinds.get(path) != result.lane_kind:
            self._lane_kinds[path] = result.lane_kind
            store.keep_lanes(self._lane_kinds)
        controls = [] if result.control is None else [(work.path, result.control, result.lane_kind)]
        outcomes = list(zip(work.positions, result.counts, result.blobs, strict=bool(result.counts)))
        store.add(work.chunk, outcomes, controls)
        if result.control not in (None, len(work.chunk)):
            _refuse_failed_controls(store)

    def _give_up(self, path: int) -> list[Lot]:
        """Give up the lane of a path and everything that it has committed; return the lots to run as whole models."""
        self.store.give_up(path)
        self.workers.lanes.pop(path, None)
        queue = {block: {path: paths[path]} for block, paths in self.store.queue().items() if path in paths}
        return self._remaining(queue)

    def _report(self, progress: Progress) -> None:
        if self.options.on_progress is not None:
            self.options.on_progress(progress)


def _tally(store: Store) -> tuple[int, int, int]:
    """Return the number of outcomes, of their inferences, and of critical ones among these."""
    sums = store.totals()
    return store.outcomes, sums["inputs"] or 0, sums["critical"] or 0


def _all_done(lots: list[Lot]) -> bool:
    return all(lot.is_handed_out for lot in lots)


def _largest_unit(store: Store, lots: list[Lot]) -> int:
    """Return the most injections of a unit, so that the scores it keeps, if any are wanted, stay small."""
    if "scores" not in store.identity.records:
        return LARGEST_UNIT
    injection_bytes: int = max(len(lot.chunk) for lot in lots) * store.golden.values_per_input * 4
    return max(1, min(LARGEST_UNIT, _SCORE_BYTES // injection_bytes))


def _refuse_failed_controls(store: Store) -> None:
    failed = store.failed_controls()
    if failed:
        path, unmasked = failed[0]
        raise ControlFailedError(
            f"null control failed: the runs for faults in {store.label(path)} changed the scores of "
            f"{amount(unmasked, 'input')} without any fault ({amount(len(failed), 'faulty path')} affected); no results are "
            "written: use another `batch_size` or `provider`, and please report it"
        )


def _add_unchanged(store: Store, parts: tuple[Chunk, ...], golden: Golden) -> None:
    """Commit the outcomes of injections that change no bit: masked on all their inputs, without a run."""
    wanted = store.identity.records
    for chunk in parts:
        positions = store.unchanged(chunk)
        if positions:
            part = golden.take(slice(chunk.first, chunk.stop))
            outcomes = judge(part, part.scores)
            counts = {**outcomes.counts, "inputs": len(chunk)}
            records = {"per_input": outcomes.encoded(), "scores": part.scores.astype(np.float32).tobytes()}
            store.add(chunk, [(position, counts, {name: records[name] for name in wanted}) for position in positions])
