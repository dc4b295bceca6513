"""The audit: some injections of a finished campaign run once more, as whole models on the reference engine.

An injection runs again over one chunk of inputs, and every count must equal the stored one; or over one batch, and scores
and outcomes there must have the fingerprint that was stored when the campaign ran. Both look at what the campaign itself
computed, with other faults in the same runs. A second run on the fast engine would be alone, and would miss what goes wrong
between faults, chunks and the store.
"""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass

from bitswap_onnx.campaign.audit_check import agrees
from bitswap_onnx.campaign.audit_choice import AuditChoice, AuditChoices
from bitswap_onnx.campaign.options import Audit
from bitswap_onnx.campaign.records import AuditRecord
from bitswap_onnx.campaign.store import Store
from bitswap_onnx.errors import ControlFailedError
from bitswap_onnx.runtime.messages import PathUnit, PathWork, Result, Unit, Work
from bitswap_onnx.runtime.pool import Pool

#: Injections that an audit with a limit of time always runs, over one batch each: one of each kind.
_AT_LEAST = 4


def is_due(store: Store, audit: Audit) -> bool:
    """Whether the incremental engine ran injections and the last audit checked fewer of them than ``audit`` asks for."""
    done = store.audit
    return store.uses_incremental_engine and not audit.is_met_by(len(done.checked) if done else 0, store.changing)


def run_audit(
    store: Store,
    pool: Pool,
    audit: Audit,
    seconds: dict[str, float],
    report: Callable[[int, int], None],
    stop: threading.Event,
) -> None:
    """Run injections again and commit what was found.

    ``seconds``: what the workers spent in this process, by span; the audit adds its own.

    Raises ControlFailedError if anything differs. Once ``stop`` is set it ends. Nothing is committed then, unless something
    differed.
    """
    spent = sum(sum(own.values()) - own.get("audit", 0.0) for own in (seconds, store.seconds))
    plan = _Plan(store, audit, spent)
    paths, different, checked = store.paths(), list[str](), list[str]()

    def take(worker: int) -> Unit | None:
        choice = plan.take()
        return None if choice is None else _unit(store, choice, paths[choice.path])

    for unit, result in pool.run(take, stop):
        choice = plan.note(unit, result)
        seconds["audit"] += sum(result.spans.values())
        checked.append(store.id_of(choice.position))
        if not agrees(store, choice, result):
            different.append(f"{checked[-1]} over the inputs {choice.inputs.first} to {choice.inputs.stop - 1}")
        report(len(checked), plan.total)
    if stop.is_set() and not different:
        return
    store.keep_audit(AuditRecord(tuple(checked), tuple(different)))
    refuse_failed(store)


@dataclass(eq=False)
class _Plan:
    """Hands out the injections of an audit. ``spent``: the seconds that the workers spent on all else."""

    store: Store
    audit: Audit
    spent: float

    def __post_init__(self) -> None:
        self._choices = AuditChoices(self.store)
        self._size = self.audit.size(self.store.changing)
        self._taken = 0
        self._out: dict[int, AuditChoice] = {}
        self._results: list[Result] = []
        self._inputs = 0

    @property
    def total(self) -> int:
        """The number of injections that will have run again, as far as it is decided."""
        return self._size if self.audit.time is None else max(self._taken, min(_AT_LEAST, self._size))

    def take(self) -> AuditChoice | None:
        """Return the next injection, None if none is left, or none fits the limit as far as is known now."""
        choice = self._next() if self._taken < self._size else None
        if choice is not None:
            self._out[choice.position] = choice
            self._taken += 1
        return choice

    def note(self, unit: Unit, result: Result) -> AuditChoice:
        """Note the result of an injection that was handed out, and return it."""
        choice = self._out.pop(unit.work.parts[0].positions[0])
        self._results.append(result)
        self._inputs += len(choice.inputs)
        return choice

    def _next(self) -> AuditChoice | None:
        if self.audit.time is None:
            return self._choices.over_chunk()
        if self._taken < _AT_LEAST:
            return self._choices.over_batch() or self._choices.over_chunk()
        taken = sum(result.seconds for result in self._results)
        expected = sum(self._seconds(len(choice.inputs)) for choice in self._out.values())
        left = self.audit.time * self.spent - taken - expected
        if self._seconds(self.store.unit_length) <= left:
            return self._choices.over_chunk()
        if self._seconds(self.store.identity.numerics.batch_size) <= left:
            return self._choices.over_batch()
        return None

    def _seconds(self, inputs: int) -> float:
        """Return the seconds that an injection over so many inputs is likely to take; infinite before anything is known."""
        if not self._results:
            return math.inf
        loading = sum(result.spans.get("loading", 0.0) for result in self._results)
        rest = sum(result.seconds for result in self._results) - loading
        return loading / len(self._results) + rest / self._inputs * inputs


def _unit(store: Store, choice: AuditChoice, path: tuple[str, ...]) -> Unit:
    """Return what a worker needs to run an injection again."""
    position, inputs = choice.position, choice.inputs
    return Unit(
        work=Work(inputs, (PathWork(choice.path, (position,), control=False),)),
        label=f"audit of {store.id_of(position)}",
        parts=[PathUnit(path, [store.edits(position, inputs)])],
        engine="reference",
        batch=inputs,
    )


def refuse_failed(store: Store) -> None:
    """Raise ControlFailedError if an audit of this campaign found a difference."""
    audit = store.audit
    if audit and audit.different:
        raise ControlFailedError(
            f"{store.run}: the audit failed: the incremental engine counts otherwise than the reference engine for "
            f"injection {audit.different[0]} ({len(audit.different)} of {len(audit.checked)} differ); this run is "
            "invalid: start again in another `run` with `engine` reference, and please report it"
        )
