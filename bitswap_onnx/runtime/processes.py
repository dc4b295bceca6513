"""Worker processes: their start, ahead of their settings if wanted, and their end."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from bitswap_onnx.errors import RunError

WorkerProcess = subprocess.Popen[bytes]


@contextlib.contextmanager
def workers_ahead(count: int) -> Iterator[list[WorkerProcess]]:
    """Start workers, which import their modules while the parent prepares their campaign; give the list of them.

    Whoever takes a worker from the list ends it. The others end here.
    """
    waiting: list[WorkerProcess] = []
    try:
        waiting.extend(start_worker() for _ in range(count))
        yield waiting
    finally:
        end_workers(waiting)


def start_worker() -> WorkerProcess:
    """Start a worker outside the terminal's process group, so that Ctrl-C reaches the parent alone."""
    detached: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        detached = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    path = os.pathsep.join(filter(None, sys.path))  # the same as the parent's, without the working directory
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "bitswap_onnx.runtime.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            **detached,
        )
    except OSError as error:
        raise RunError(f"cannot start a worker: {error.strerror}; try fewer `workers`") from None


def end_workers(workers: list[WorkerProcess]) -> None:
    """End workers at once; what they run is lost."""
    for process in workers:
        process.kill()
    for process in workers:
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        process.wait()
