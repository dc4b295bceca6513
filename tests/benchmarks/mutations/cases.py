"""One case: a damaged file and what the command line does with such a file, watched."""

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import numpy as np

from bitswap_onnx.errors import BitswapError

SECONDS = 10

#: Writes a damaged file into a folder and returns the steps that read it, by name, and what was done to it.
Maker = Callable[[np.random.Generator, Path], tuple[str, dict[str, Callable[[], object]]]]


class Hang(BaseException):
    """A case took longer than `SECONDS`; no handler of the library catches it."""


@dataclass
class Tally:
    """``outcomes``: cases by their end (``read``, or the step that refused). ``failures``: case, mutation and exception."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, str, str]] = field(default_factory=list)


def run_case(maker: Maker, kind: int, seed: int, number: int, folder: Path, tally: Tally) -> None:
    """Run one case in an empty ``folder``; the draws depend on kind, seed and number alone."""
    mutation, steps = maker(np.random.default_rng([seed, kind, number]), folder)
    before = _content(folder)
    refused = "read"
    for name, step in steps.items():
        try:
            with _limited():
                step()
        except BitswapError as error:
            refused = f"refused: {name}" if refused == "read" else refused
            if len(str(error)) > 2000 or "\n" in str(error):
                tally.failures.append((number, mutation, f"{name}: a message of {len(str(error))} characters"))
            if name == "load":
                break
        except (Exception, Hang) as error:
            tally.failures.append((number, mutation, f"{name}: {type(error).__name__}: {str(error)[:200]}"))
            refused = "failed"
            break
    tally.outcomes[refused] += 1
    if _content(folder) != before:
        tally.failures.append((number, mutation, "a file was written or changed"))


def _content(folder: Path) -> dict[str, tuple[int, int]]:
    """Return names, sizes and times of all files, those of the folder around it too."""
    files = (path for path in folder.parent.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


@contextmanager
def _limited() -> Iterator[None]:
    def end(_signal: int, _frame: FrameType | None) -> None:
        raise Hang(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
