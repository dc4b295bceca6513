"""Everything that a campaign shows on the terminal: progress, notes and the summary."""

import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from bitswap_onnx.cli.option_names import in_options
from bitswap_onnx.errors import amount, printable

if TYPE_CHECKING:
    from bitswap_onnx.campaign.options import OnProgress, Progress
    from bitswap_onnx.campaign.run import Campaign
    from bitswap_onnx.graph.coverage import Coverage
    from bitswap_onnx.outcome import Counts

#: Width of tables where the output is no terminal: wide enough that no column is squeezed.
_WIDE = 200


class _PlainTable(Table):
    """A table whose cells bring no control character to the terminal: names come from files."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*(printable(cell) if isinstance(cell, str) else cell for cell in cells), **options)


class _PlainConsole(Console):
    """A console whose lines bring no control character to the terminal."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*map(_plain, objects), **options)


def _plain(printed: Any) -> Any:
    return "\n".join(map(printable, printed.split("\n"))) if isinstance(printed, str) else printed


#: Prints names as they are: no markup, no emoji, no wrapping.
out = _PlainConsole(
    highlight=False, markup=False, emoji=False, soft_wrap=True, width=None if sys.stdout.isatty() else _WIDE
)
_PLAIN_SECONDS = 10.0

#: The words for spans of workers whose name says too little.
_SPAN_NAMES = {
    "controls": "null controls",
    "probing": "probing lanes",
    "golden": "golden values",
    "loading": "loading sessions",
}


def share(part: int | None, whole: int | None) -> str:
    """Return a percentage, or a dash where there is nothing to divide."""
    return f"{100 * part / whole:.2f} %" if part is not None and whole else "-"


def table(title: str, *columns: str) -> Table:
    """Return an empty table; columns whose name starts with ``>`` are aligned to the right."""
    result = _PlainTable(title=printable(title), title_justify="left", header_style="bold")
    for column in columns:
        result.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    return result


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
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("critical {task.fields[critical]}"),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
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
    def __init__(self, bar: Bar) -> None:
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


def print_campaign(campaign: "Campaign") -> None:
    """Print totals, shares per bit class, the worst injections and the run directory."""
    golden, summary = campaign.golden, campaign.summary
    totals = summary.totals
    accuracy = share(golden["top_1_correct"], golden["inputs"]) if golden["top_1_correct"] is not None else "unknown"
    over = "x" if totals["inputs"] == summary.injections * golden["inputs"] else "over some of"
    out.print(
        f"{golden['network']} on {golden['dataset']}: {amount(summary.injections, 'injection')} {over} "
        f"{amount(golden['inputs'], 'input')} "
        f"= {amount(totals['inputs'] or 0, 'inference', ',')}; clean top-1 accuracy {accuracy}"
    )
    result = table(
        "Outcomes", "Faults in", ">Injections", ">Masked", ">Non-critical", ">Critical", ">of these nonfinite"
    )
    result.add_row("all bits", str(summary.injections), *_shares(totals))
    for name, number, counts in summary.bit_classes:
        result.add_row(name, str(number), *_shares(counts))
    out.print(result)
    if summary.worst:
        worst = table("Worst injections", "Injection", "Layer", "First fault", ">Critical")
        for identifier, layer, fault, critical, inputs in summary.worst:
            worst.add_row(identifier, layer, fault, f"{critical} of {inputs}")
        out.print(worst)
    if golden["coverage"]:
        from bitswap_onnx.graph.coverage import Coverage  # a campaign has loaded it already

        print_coverage(Coverage.from_stored(golden["coverage"]))
    if golden["lanes"]:
        out.print(_how(golden))
    if any(golden["seconds"].values()):
        out.print(_where_time_went(golden["seconds"]))
    out.print(f"run directory: {campaign.run}")


def _how(golden: dict[str, Any]) -> str:
    """Return a sentence: which faulty paths ran in which way, and how many injections were audited."""
    kinds = Counter(golden["lanes"].values())
    names = {
        "packed": "packed by channel",
        "neuron": "from golden neurons on",
        "stages": "one by one in their stage",
        "whole": "as whole models",
    }
    ways = ", ".join(f"{kinds[kind]} {name}" for kind, name in names.items() if kinds[kind])
    audited = len((golden["audit"] or {"checked": []})["checked"])
    given_up = len(golden["given_up"])
    return (
        f"faulty layers and parameters: {ways}"
        + (f", {given_up} of these after a null control failed on a faster way" if given_up else "")
        + (f"; audit: {amount(audited, 'injection')} as whole models, all equal" if audited else "")
    )


def _where_time_went(seconds: Mapping[str, float]) -> str:
    """Return a sentence: the seconds of all workers, and the share of each span, the largest first."""
    total = sum(seconds.values())
    largest_first = sorted(seconds.items(), key=lambda span: -span[1])
    shares = ", ".join(f"{_SPAN_NAMES.get(name, name)} {100 * spent / total:.0f} %" for name, spent in largest_first)
    return f"time of the workers: {total:,.1f} s: {shares}"


def _shares(counts: "Counts") -> list[str]:
    inputs = counts["inputs"]
    return [share(counts[name], inputs) for name in ("masked", "non_critical", "critical", "critical_nonfinite")]
