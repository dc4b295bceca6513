"""The peak memory of a command and its workers, on a system with /proc."""

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

#: Seconds between two looks at the processes.
INTERVAL = 0.1


@dataclass
class Peaks:
    """The most bytes that were resident at once: in the parent, in its workers together, theirs in no file, and in all."""

    parent: int = 0
    workers: int = 0
    own: int = 0
    together: int = 0

    def sample(self, process: int) -> None:
        """Take in how it is now with ``process`` and its children."""
        parent = _status(process)
        self.parent = max(self.parent, parent.get("VmHWM", 0))
        states = (_status(int(path.name)) for path in Path("/proc").iterdir() if path.name.isdigit())
        children = [state for state in states if state.get("PPid") == process]
        workers = sum(child.get("VmRSS", 0) for child in children)
        self.workers = max(self.workers, workers)
        self.together = max(self.together, parent.get("VmRSS", 0) + workers)
        self.own = max(self.own, sum(child.get("RssAnon", 0) for child in children))


def _status(process: int) -> dict[str, int]:
    """Return the numbers of a process's status, sizes in bytes; nothing once it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return {}
    cells = [line.replace(":", " ").split() for line in lines]
    return {
        cell[0]: int(cell[1]) * (1024 if cell[2:] == ["kB"] else 1) for cell in cells if cell[1:2] and cell[1].isdigit()
    }


def run_watched(command: Sequence[str], log: Path) -> tuple[float, Peaks]:
    """Run a command that prints into ``log``; return its seconds and peaks. Raises CalledProcessError if it fails."""
    peaks, start = Peaks(), time.perf_counter()
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
        while process.poll() is None:
            peaks.sample(process.pid)
            time.sleep(INTERVAL)
    seconds = time.perf_counter() - start
    if process.returncode:
        sys.stderr.write(log.read_text())
        raise subprocess.CalledProcessError(process.returncode, command)
    return seconds, peaks
