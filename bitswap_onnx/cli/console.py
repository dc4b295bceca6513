"""What every command shows on the terminal: tables, notes, and the progress of a campaign."""

import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console

from bitswap_onnx.cli.option_names import in_options
from bitswap_onnx.cli.tables import PlainTable, wrapped
from bitswap_onnx.errors import printable

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from bitswap_onnx.campaign.options import OnProgress, Progress
    from bitswap_onnx.graph.coverage import Coverage

#: Width of tables where the output is no terminal: wide enough that no column is squeezed.
_WIDE = 200


class _PlainConsole(Console):
    """A console whose lines bring no control character to the terminal, and wrap there between words."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*map(self._plain, objects), **options)

    def _plain(self, printed: Any) -> Any:
        if not isinstance(printed, str):
            return printed
        lines = map(printable, printed.split("\n"))
        return "\n".join(wrapped(line, self.width) for line in lines) if self.is_terminal else "\n".join(lines)


#: Prints names as they are: no markup, no emoji, no cutting.
out = _PlainConsole(
    highlight=False, markup=False, emoji=False, soft_wrap=True, width=None if sys.stdout.isatty() else _WIDE
)
_PLAIN_SECONDS = 10.0


def share(part: int | None, whole: int | None) -> str:
    """Return a percentage, which says 0 and 100 only for none and all, or a dash where there is nothing to divide."""
    if part is None or not whole:
        return "-"
    percent = f"{100 * part / whole:.2f}"
    if part and percent == "0.00":
        percent = "< 0.01"
    elif part < whole and percent == "100.00":
        percent = "> 99.99"
    return f"{percent} %"


def table(title: str, *columns: str) -> PlainTable:
    """Return an empty table; columns whose name starts with ``>`` are aligned to the right and hold numbers."""
    return PlainTable(title, columns)


def print_notes(notes: Iterable[str], before: str = "note: ") -> None:
    """Print notes of the library to stdout, each on a line."""
    for note in notes:
        out.print(before + in_options(note))


def print_coverage(found: "Coverage") -> None:
    """Print how many of a model's stored bits are covered, and the options that take in what was left out.

    These have the names of their parameters; `in_options`, which knows others too, would load every command for them.
    """
    out.print(re.sub(r"`(\w+)`", lambda match: f"--{match[1]}", found.text))


def print_notes_aside(notes: Iterable[str]) -> None:
    """Print notes of a running campaign to stderr, each on a line."""
    for note in notes:
        sys.stderr.write(f"{in_options(note)}\n")


@contextmanager
def progress() -> Iterator["OnProgress"]:
    """Give a callback that shows progress: a bar on a terminal, a line every ten seconds elsewhere."""
    if not sys.stderr.isatty():
        yield _Lines().show
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("critical {task.fields[critical]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield _Bars(bar).show


class _Pace:
    """Rate and time left of a stage, measured since it was first seen: work of an earlier run does not count."""

    def __init__(self) -> None:
        self.begun: tuple[float, Progress] | None = None

    def __call__(self, progress: "Progress") -> tuple[str, str]:
        """Return inferences per second and the time left, each empty where nothing is known yet."""
        now = time.monotonic()
        if self.begun is None or self.begun[1].stage != progress.stage or self.begun[1].done > progress.done:
            self.begun = now, progress
        seconds, before = now - self.begun[0], self.begun[1]
        reached, inferences = _exactly(progress), progress.inferences - before.inferences
        done = reached - _exactly(before)
        rate = f"{inferences / seconds:,.0f} inferences/s" if seconds > 0 and inferences > 0 else ""
        left = f"ETA {seconds / done * (progress.total - reached):,.0f} s" if seconds > 0 and done > 0 else ""
        return rate, left


def _exactly(progress: "Progress") -> float:
    return progress.done if progress.exactly is None else progress.exactly


class _Bars:
    def __init__(self, bar: "Bar") -> None:
        self.bar = bar
        self.stages: dict[str, TaskID] = {}
        self.pace = _Pace()

    def show(self, progress: "Progress") -> None:
        if progress.stage not in self.stages:
            self.stages[progress.stage] = self.bar.add_task(progress.stage, rate="", critical="")
        self.bar.update(
            self.stages[progress.stage],
            completed=_exactly(progress),
            total=progress.total,
            rate=self.pace(progress)[0],
            critical=share(progress.critical, progress.inferences),
        )


class _Lines:
    def __init__(self) -> None:
        self.last = time.monotonic()
        self.pace = _Pace()

    def show(self, progress: "Progress") -> None:
        pace = self.pace(progress)
        now = time.monotonic()
        if now - self.last < _PLAIN_SECONDS and progress.done < progress.total:
            return
        self.last = now
        critical = f"critical {share(progress.critical, progress.inferences)}" if progress.inferences else ""
        parts = [f"{progress.stage}: {progress.done}/{progress.total}", *pace, critical]
        sys.stderr.write(", ".join(part for part in parts if part) + "\n")
