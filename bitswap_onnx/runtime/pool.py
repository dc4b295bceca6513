"""The parent's side of the workers: N subprocesses, one unit at a time each, results as they come."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from bitswap_onnx.errors import BitswapError, ModelError, RunError
from bitswap_onnx.runtime.messages import Message, Result, Unit, encode_edits, receive, send
from bitswap_onnx.runtime.worker import Worker

#: Units that a worker has: the one it runs, and one that waits, so that it never does.
_AT_HAND = 2


@dataclass
class Pool:
    """``size`` worker processes that all got ``settings``; use it as a context manager, its end ends them.

    ``size`` 0: no process is started, units run in this one, one after the other.
    """

    settings: Message
    size: int
    _processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    _own: Worker | None = None

    def __enter__(self) -> Self:
        self._threads = [ThreadPoolExecutor(1) for _ in range(self.size)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:  # nothing that is under way is still wanted
            for process in list(self._processes.values()):
                process.kill()
        for thread in self._threads:
            thread.shutdown(cancel_futures=True)
        for process in self._processes.values():
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]
            process.wait()

    def expect(self, paths: list[tuple[tuple[str, ...], int]]) -> None:
        """Say between two runs which faulty paths will come, each with its number of batches; no neuron site may be new.

        Workers that have begun hear of it now, others when they start.
        """
        self.settings = {**self.settings, "paths": paths}
        if self._own is not None:
            self._own.expect(paths)
        for worker in self._processes:
            self._ask(worker, {"expect": paths}, "between two rounds")

    def run(self, take: Callable[[int], Unit | None], stop: threading.Event) -> Iterator[tuple[Unit, Result]]:
        """Yield units and their results as workers finish; ``take(worker)`` gives a worker's next unit, or None.

        Each worker has one unit at hand and one waiting. Once ``stop`` is set, only units that had begun come.
        """
        if not self.size:
            while not stop.is_set() and (unit := take(0)) is not None:
                yield unit, self._run(0, unit)
            return
        running: dict[Future[Result], tuple[int, Unit]] = {}
        while True:
            if stop.is_set():
                running = {future: own for future, own in running.items() if not future.cancel()}
            else:
                for worker in (*range(self.size), *range(self.size)):
                    busy = sum(other == worker for other, _ in running.values())
                    if busy < _AT_HAND and (unit := take(worker)) is not None:
                        running[self._threads[worker].submit(self._run, worker, unit)] = worker, unit
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in sorted(done, key=lambda ended: ended.exception() is not None):  # what is done is kept
                yield running.pop(future)[1], future.result()

    def _start(self, worker: int) -> None:
        """Start a worker; it leaves the terminal's process group, so that Ctrl-C reaches the parent alone."""
        detached: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            detached = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        path = os.pathsep.join(filter(None, sys.path))  # the parent's own, and never the working directory
        try:
            self._processes[worker] = subprocess.Popen(
                [sys.executable, "-P", "-m", "bitswap_onnx.runtime.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                **detached,
            )
        except OSError as error:
            raise RunError(f"cannot start a worker: {error.strerror}; try fewer --workers") from None
        self._ask(worker, self.settings, "start")

    def _run(self, worker: int, unit: Unit) -> Result:
        if self.size and worker not in self._processes:
            self._start(worker)
        work = unit.work
        encoded = [encode_edits(edits) for edits in unit.edits]
        keys = [json.dumps(edits) for edits in encoded]
        distinct = dict(zip(keys, encoded, strict=True))  # the same faults need to run but once
        request = {"path": unit.path, "edits": list(distinct.values()), "control": work.control, "held": work.held}
        request |= {"first": work.chunk.first, "stop": work.chunk.stop, "engine": unit.engine, "lane": unit.lane}
        request["whole"] = unit.whole
        reply, blobs = self._ask(worker, request, unit.label)
        found: list[dict[str, bytes]] = [{} for _ in reply["counts"]]
        for name, blob in blobs.items():
            number, _, kind = name.partition(" ")
            found[int(number)][kind] = blob
        at = {key: number for number, key in enumerate(distinct)}
        order = [at[key] for key in keys] if reply["counts"] else []
        counts, records = [reply["counts"][i] for i in order], [found[i] for i in order]
        found_out = {name: reply[name] for name in ("lane", "kind") if name in reply}
        return Result(reply["control"], counts, records, reply["seconds"], **found_out)

    def _answer(self, request: Message, label: str) -> tuple[Message, dict[str, bytes]]:
        """Answer a request in this process."""
        try:
            if self._own is None:
                self._own = Worker(self.settings)
            return self._own.run(request)
        except BitswapError as error:
            raise ModelError(f"{label}: {error}") from None

    def _ask(self, worker: int, request: Message, label: str) -> tuple[Message, dict[str, bytes]]:
        if not self.size:
            return self._answer(request, label)
        process = self._processes[worker]
        assert process.stdin is not None
        assert process.stdout is not None
        answer = None
        with contextlib.suppress(BrokenPipeError):
            send(process.stdin, request)  # type: ignore[arg-type]
            answer = receive(process.stdout)  # type: ignore[arg-type]
        if answer is None:
            raise RunError(
                f"{label}: a worker ended unexpectedly (exit status {process.wait()}), perhaps out of memory; "
                "what was finished is saved: run again with --resume and fewer --workers"
            )
        if "error" in answer[0]:
            raise ModelError(f"{label}: {answer[0]['error']}")
        return answer
