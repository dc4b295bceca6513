"""The parent's side of the workers: N subprocesses, each with one unit at a time; results come as units finish."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

from bitswap_onnx.errors import BitswapError, ModelError, RunError
from bitswap_onnx.runtime.lanes import FaultyPath
from bitswap_onnx.runtime.messages import (
    Message,
    Result,
    Unit,
    WorkerRequest,
    decode_result,
    encode_edits,
    encode_request,
    receive,
    send,
)
from bitswap_onnx.runtime.processes import WorkerProcess, end_workers, start_worker
from bitswap_onnx.runtime.worker import Worker
from bitswap_onnx.runtime.worker_settings import WorkerSettings, encode_paths, encode_settings

#: Units that a worker has: the one it runs, and one that waits, so that the worker never waits.
_UNITS_PER_WORKER = 2


@dataclass
class Pool:
    """``size`` worker processes with the same ``settings``. Use it as a context manager; its end ends the processes.

    ``size`` 0: no process is started, and units run in this one, one after the other. ``waiting``: workers that were
    started ahead (`bitswap_onnx.runtime.processes.workers_ahead`); they are taken from the list before others are started.
    """

    settings: WorkerSettings
    size: int
    waiting: list[WorkerProcess] = field(default_factory=list)
    _threads: list[ThreadPoolExecutor] = field(default_factory=list, init=False)
    _processes: dict[int, WorkerProcess] = field(default_factory=dict, init=False)
    _in_process: Worker | None = field(default=None, init=False)
    _start_seconds: dict[int, float] = field(default_factory=dict, init=False)

    def __enter__(self) -> Self:
        self._threads = [ThreadPoolExecutor(1) for _ in range(self.size)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in list(self._processes.values()):  # nobody waits for the units at hand
            process.kill()
        for thread in self._threads:
            thread.shutdown(cancel_futures=True)
        end_workers([*self._processes.values()])

    def expect(self, paths: Mapping[FaultyPath, int]) -> None:
        """Send the workers the faulty paths to come, each with its number of batches. Call it between two runs.

        Their neuron sites must be among those of the settings. A worker that has not started gets them at its start.
        """
        self.settings = replace(self.settings, paths=paths)
        if self._in_process is not None:
            self._in_process.expect(paths)
        for worker in self._processes:
            self._ask(worker, {"expect": encode_paths(paths)}, "between two rounds")

    def run(self, take: Callable[[int], Unit | None], stop: threading.Event) -> Iterator[tuple[Unit, Result]]:
        """Yield units and their results as workers finish; ``take(worker)`` gives a worker's next unit, or None.

        Each worker has one unit at hand and one waiting; its results come in the order of its units. Once ``stop`` is set,
        only units that had begun are yielded.
        """
        if not self.size:
            while not stop.is_set() and (unit := take(0)) is not None:
                yield unit, self._run(0, unit)
            return
        running: dict[Future[Result], tuple[int, Unit]] = {}
        while True:
            if stop.is_set():
                running = {future: assigned for future, assigned in running.items() if not future.cancel()}
            else:
                for worker in (*range(self.size), *range(self.size)):
                    at_hand = sum(busy == worker for busy, _ in running.values())
                    if at_hand < _UNITS_PER_WORKER and (unit := take(worker)) is not None:
                        running[self._threads[worker].submit(self._run, worker, unit)] = worker, unit
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            ended = [future for future in running if future in done]  # in the order in which units were taken
            for future in sorted(ended, key=lambda one: one.exception() is not None):  # results before an error
                yield running.pop(future)[1], future.result()

    def _run(self, worker: int, unit: Unit) -> Result:
        """Run a unit; injections of a path with the same edits run only once."""
        parts, order = [], []
        count = 0
        for part in unit.parts:
            keys = [json.dumps(encode_edits(edits)) for edits in part.edits]
            distinct = dict(zip(keys, part.edits, strict=True))
            numbers = {key: number for number, key in enumerate(distinct, count)}
            order += [numbers[key] for key in keys]
            count += len(distinct)
            parts.append(replace(part, edits=list(distinct.values())))
        request = WorkerRequest(unit.work.chunk, parts, unit.engine, unit.batch)
        result = self._run_in_process(request, unit.label) if not self.size else self._send(worker, request, unit.label)
        order = order if result.counts else []
        return replace(
            result,
            counts=[result.counts[i] for i in order],
            blobs=[result.blobs[i] for i in order],
            fingerprints=[result.fingerprints[i] for i in order],
            spans=result.spans | {"start": self._start_seconds.pop(worker, 0.0)},
        )

    def _run_in_process(self, request: WorkerRequest, label: str) -> Result:
        try:
            if self._in_process is None:
                begun = time.perf_counter()
                self._in_process = Worker(self.settings)
                self._start_seconds[0] = time.perf_counter() - begun
            return self._in_process.run(request)
        except BitswapError as error:
            raise ModelError(f"{label}: {error}") from None

    def _send(self, worker: int, request: WorkerRequest, label: str) -> Result:
        if worker not in self._processes:
            self._start(worker)
        return decode_result(*self._ask(worker, encode_request(request), label))

    def _start(self, worker: int) -> None:
        begun = time.perf_counter()
        try:
            process = self.waiting.pop()
        except IndexError:  # more workers than were started ahead
            process = start_worker()
        self._processes[worker] = process
        self._ask(worker, encode_settings(self.settings), "start")
        self._start_seconds[worker] = time.perf_counter() - begun

    def _ask(self, worker: int, message: Message, label: str) -> tuple[Message, dict[str, bytes]]:
        """Send a message to a worker and return its answer.

        Raises ModelError for an error of the worker, RunError for a worker that has ended.
        """
        process = self._processes[worker]
        assert process.stdin is not None
        assert process.stdout is not None
        answer = None
        with contextlib.suppress(BrokenPipeError):
            send(process.stdin, message)  # type: ignore[arg-type]
            answer = receive(process.stdout)  # type: ignore[arg-type]
        if answer is None:
            raise RunError(
                f"{label}: a worker ended unexpectedly (exit status {process.wait()}), perhaps out of memory; "
                "everything finished is saved: run again with `resume` and fewer `workers`"
            )
        if "error" in answer[0]:
            raise ModelError(f"{label}: {answer[0]['error']}")
        return answer
