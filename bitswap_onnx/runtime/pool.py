"""The parent's side of the workers: N subprocesses, one unit at a time each, results as they come."""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from types import TracebackType
from typing import Any, Self

from bitswap_onnx.errors import ModelError, RunError
from bitswap_onnx.graph.weights import Edits
from bitswap_onnx.outcome import Counts
from bitswap_onnx.plan import Chunk
from bitswap_onnx.runtime.worker import Message, receive, send


@dataclass(frozen=True, slots=True)
class Unit:
    """One injection (or null control) over one chunk of inputs. ``label`` names it in messages."""

    key: int
    label: str
    edits: Edits
    chunk: Chunk


@dataclass(frozen=True, slots=True)
class Result:
    """What a worker made of a unit: counts, and the recorded blobs (``per_input``, ``scores``) by name."""

    unit: Unit
    counts: Counts
    blobs: dict[str, bytes]


@dataclass
class Pool:
    """``size`` worker processes that all got ``settings``; use it as a context manager, its end ends them."""

    settings: Message
    size: int
    _local: threading.local = field(default_factory=threading.local)
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._threads = ThreadPoolExecutor(self.size)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:  # nothing that is under way is still wanted
            for process in self._processes:
                process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]
            process.wait()

    def run(self, units: Iterable[Unit], stop: threading.Event) -> Iterator[Result]:
        """Yield results in the order they finish; once ``stop`` is set, only of the units that had begun."""
        remaining = iter(units)
        running: set[Future[Result]] = set()
        while True:
            if stop.is_set():
                running = {future for future in running if not future.cancel()}
            else:
                running |= {
                    self._threads.submit(self._run, unit) for unit in islice(remaining, 2 * self.size - len(running))
                }
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()

    def _start(self) -> None:
        """Start this thread's worker; it leaves the terminal's process group, so that Ctrl-C reaches the parent alone."""
        detached: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            detached = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        path = os.pathsep.join(filter(None, sys.path))  # the parent's own, and never the working directory
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "bitswap_onnx.runtime.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                **detached,
            )
        except OSError as error:
            raise RunError(f"cannot start a worker: {error.strerror}; try fewer --workers") from None
        self._processes.append(process)
        self._local.process = process
        self._ask(self.settings, "start")

    def _run(self, unit: Unit) -> Result:
        if not hasattr(self._local, "process"):
            self._start()
        edits = {key: list(changes) for key, changes in unit.edits.items()}
        request = {"edits": edits, "first": unit.chunk.first, "stop": unit.chunk.stop}
        reply, blobs = self._ask(request, unit.label)
        return Result(unit, reply["counts"], blobs)

    def _ask(self, request: Message, label: str) -> tuple[Message, dict[str, bytes]]:
        process = self._local.process
        answer = None
        with contextlib.suppress(BrokenPipeError):
            send(process.stdin, request)
            answer = receive(process.stdout)
        if answer is None:
            raise RunError(
                f"{label}: a worker ended unexpectedly (exit status {process.wait()}), perhaps out of memory; "
                "what was finished is saved: run again with --resume and fewer --workers"
            )
        if "error" in answer[0]:
            raise ModelError(f"{label}: {answer[0]['error']}")
        return answer
