"""Runs everything that a store still lacks: null controls, injections and the audit. Each finished unit is committed."""

import threading
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from types import TracebackType
from typing import Self

import numpy as np

from bitswap_onnx.campaign.audit import is_due, refuse_failed, run_audit
from bitswap_onnx.campaign.memory import MemoryShares
from bitswap_onnx.campaign.options import Audit, Progress, RunOptions
from bitswap_onnx.campaign.schedule import LARGEST_UNIT, Lot, Queue, Schedule, make_lots
from bitswap_onnx.campaign.setup import Setup
from bitswap_onnx.campaign.store import Fingerprint, Store
from bitswap_onnx.campaign.workers import CampaignWorkers
from bitswap_onnx.data.chunks import Chunk, chunks
from bitswap_onnx.errors import ControlFailedError, InterruptedRunError, amount
from bitswap_onnx.outcome import Counts, Golden, judge
from bitswap_onnx.runtime.lanes import FaultyPath
from bitswap_onnx.runtime.messages import Engine, PathUnit, Result, Unit, Work
from bitswap_onnx.runtime.pool import Pool
from bitswap_onnx.runtime.stopwatch import SPANS

#: Scores that one unit may keep, in bytes.
_SCORE_BYTES = 1 << 26

#: The outcomes by which audits tell injections apart, the first that an injection has.
_EFFECTS = ("critical", "non_critical")


@dataclass(eq=False)
class Executor:
    """Runs what a ``store`` lacks. It can run again after the list has grown: its workers and their lanes stay.

    Use it as a context manager; its end ends the workers, and the store keeps the seconds that they spent. Setting ``stop``
    ends a run after the units at hand.
    """

    store: Store
    setup: Setup
    golden: Golden
    options: RunOptions
    shares: MemoryShares
    stop: threading.Event
    workers: CampaignWorkers = field(init=False)
    _paths: dict[int, FaultyPath] = field(default_factory=dict, init=False)
    _lane_kinds: dict[str, str] = field(default_factory=dict, init=False)
    _units: Counter[Chunk] = field(default_factory=Counter, init=False)
    _draw: Random = field(default_factory=lambda: Random(0), init=False)
    _seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SPANS, 0.0), init=False)

    def __post_init__(self) -> None:
        self.workers = CampaignWorkers(self.store, self.setup, self.golden, self.options, self.shares)
        self._engine: Engine = "reference" if self.options.engine == "reference" else "incremental"
        self._chunks = chunks(len(self.golden.scores), self.store.unit_length)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.workers.__exit__(kind, error, trace)
        if any(self._seconds.values()) and kind in (None, InterruptedRunError):
            self.store.add_seconds(self._seconds)

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
            run_audit(store, pool, audit, self._seconds, self._report_audit, self.stop)
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
        schedule = Schedule(
            lots,
            self.workers.count,
            largest=_largest_unit(store, lots),
            batch_size=self.setup.batch_size,
            clean_seconds=self.setup.clean_run(self.stop).seconds_per_input,
        )
        done, inferences, critical = _tally(store)
        total, injections = done + sum(len(lot.positions) for lot in lots), store.injections
        for unit, result in pool.run(lambda worker: self._unit(schedule.take(worker)), self.stop):
            for name, spent in result.spans.items():
                self._seconds[name] += spent
            if self._failed(unit, result):
                self._put_back(unit, schedule)
                done, inferences, critical = _tally(store)
                continue
            schedule.learn(unit.work, result.seconds)
            counts = self._commit(unit, result)
            done += len(counts)
            inferences += sum(each["inputs"] or 0 for each in counts)
            critical += sum(each["critical"] or 0 for each in counts)
            exactly = done * injections / total
            self._report(Progress("injections", int(exactly), injections, inferences, critical, exactly))

    def _unit(self, work: Work | None) -> Unit | None:
        """Return what a worker needs for some work."""
        if work is None:
            return None
        store = self.store
        parts = [
            PathUnit(
                path=self._paths[part.path],
                edits=[store.edits(position, work.chunk) for position in part.positions],
                control=part.control,
                controlled_lane=part.controlled_lane,
                whole=part.path in store.given_up,
            )
            for part in work.parts
        ]
        label = f"faults in {store.label(work.parts[0].path)}"
        if len(parts) > 1:
            label += f" and {amount(len(parts) - 1, 'other faulty path')}"
        return Unit(work, label, parts, self._engine, self._next_batch(work.chunk))

    def _next_batch(self, chunk: Chunk) -> Chunk:
        """Return the batch of a chunk whose fingerprints the next unit keeps: the batches in turn, the last one first."""
        batches = chunks(len(chunk), self.setup.batch_size)
        self._units[chunk] += 1
        batch = batches[-self._units[chunk] % len(batches)]
        return Chunk(chunk.first + batch.first, chunk.first + batch.stop)

    def _failed(self, unit: Unit, result: Result) -> bool:
        """Whether a lane has failed its null control, so that the paths of the unit have to run as whole models."""
        lanes = zip(result.controls, result.lane_kinds, strict=True)
        return any(control not in (None, len(unit.work.chunk)) and kind != "whole" for control, kind in lanes)

    def _commit(self, unit: Unit, result: Result) -> list[Counts]:
        """Commit a unit's outcomes and null controls; return the counts.

        Raises ControlFailedError for a control that does not hold. Parts that had begun before the lane of their path was
        given up are left out.
        """
        work, store = unit.work, self.store
        ran_outcomes = iter(zip(result.counts, result.blobs, result.fingerprints, strict=True))
        outcomes, controls, fingerprints = [], [], []
        kinds = dict(self._lane_kinds)
        for part, ran, control, kind in zip(work.parts, unit.parts, result.controls, result.lane_kinds, strict=True):
            of_part = list(zip(part.positions, ran_outcomes, strict=False)) if result.counts else []
            if part.path in store.given_up and not ran.whole:
                continue
            outcomes += [(position, counts, blobs) for position, (counts, blobs, _) in of_part]
            fingerprints += [(position, counts, value) for position, (counts, _, value) in of_part]
            kinds[", ".join(ran.path)] = kind
            if control is not None:
                controls.append((part.path, control, kind))
        if kinds != self._lane_kinds:
            self._lane_kinds = kinds
            store.keep_lanes(kinds)
        store.add(work.chunk, outcomes, controls, self._chosen(fingerprints, unit.batch))
        if any(control != len(work.chunk) for _, control, _ in controls):
            _refuse_failed_controls(store)
        return [each for _, each, _ in outcomes]

    def _chosen(self, fingerprints: list[tuple[int, Counts, int | None]], batch: Chunk) -> list[Fingerprint]:
        """Return the fingerprints to keep for an audit: of a drawn injection of each kind, as audits know them."""
        telling = self.store.with_top_exponent([position for position, _, _ in fingerprints])
        kinds: dict[str, list[Fingerprint]] = {}
        for position, counts, value in fingerprints:
            if value is not None:
                is_telling = counts["nonfinite"] or position in telling
                kind = "telling" if is_telling else next((name for name in _EFFECTS if counts[name]), "masked")
                kinds.setdefault(kind, []).append((position, batch.first, value))
        return [self._draw.choice(of_kind) for of_kind in kinds.values()]

    def _put_back(self, unit: Unit, schedule: Schedule) -> None:
        """Give up the lanes of a failed unit; what it had of paths that had been given up before runs once more.

        A part that was handed out before its lane was given up has been put back already.
        """
        given_up, chunk = self.store.given_up, unit.work.chunk
        for part, ran in zip(unit.work.parts, unit.parts, strict=True):
            if part.path not in given_up:
                schedule.replace(part.path, self._give_up(part.path))
            elif ran.whole:
                positions = np.array(part.positions, np.int64)
                schedule.add([Lot(chunk, part.path, positions, part.control, part.controlled_lane)])

    def _give_up(self, path: int) -> list[Lot]:
        """Give up the lane of a path and everything that it has committed; return the lots to run as whole models."""
        self.store.give_up(path)
        queue = {block: {path: paths[path]} for block, paths in self.store.queue().items() if path in paths}
        return self._remaining(queue)

    def _report_audit(self, done: int, total: int) -> None:
        self._report(Progress("audit", done, total))

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
