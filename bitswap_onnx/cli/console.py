"""What a person sees while a campaign runs and when it ends."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from bitswap_onnx.campaign import Campaign
from bitswap_onnx.execute import OnProgress, Progress
from bitswap_onnx.outcome import Counts

#: Prints names as they are: no markup, no emoji, no wrapping.
out = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
_PLAIN_SECONDS = 10.0


def share(part: int | None, whole: int | None) -> str:
    """Return a percentage, or a dash where there is nothing to divide."""
    return f"{100 * part / whole:.2f} %" if part is not None and whole else "-"


def table(title: str, *columns: str) -> Table:
    """Return an empty table; columns whose name starts with ``>`` are aligned to the right."""
    result = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        result.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    return result


@contextmanager
def progress() -> Iterator[OnProgress]:
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


class _Rate:
    """Inferences per second since the first progress of a session (what an earlier session did does not count)."""

    def __init__(self) -> None:
        self.start: tuple[float, int] | None = None

    def __call__(self, progress: Progress) -> str:
        now = time.monotonic()
        self.start = self.start or (now, progress.inferences)
        seconds, done = now - self.start[0], progress.inferences - self.start[1]
        return f"{done / seconds:,.0f} inferences/s" if seconds > 0 and done else ""


class _Bars:
    def __init__(self, bar: Bar) -> None:
        self.bar = bar
        self.stages: dict[str, int] = {}
        self.rate = _Rate()

    def show(self, progress: Progress) -> None:
        if progress.stage not in self.stages:
            self.stages[progress.stage] = self.bar.add_task(progress.stage, rate="", critical="")
        self.bar.update(
            self.stages[progress.stage],  # type: ignore[arg-type]
            completed=progress.done,
            total=progress.total,
            rate=self.rate(progress),
            critical=share(progress.critical, progress.inferences),
        )


class _Lines:
    def __init__(self) -> None:
        self.last = time.monotonic()
        self.first: tuple[float, int] | None = None
        self.rate = _Rate()

    def show(self, progress: Progress) -> None:
        rate = self.rate(progress)
        now = time.monotonic()
        if now - self.last < _PLAIN_SECONDS and progress.done < progress.total:
            return
        self.last = now
        parts = [f"{progress.stage}: {progress.done}/{progress.total}", rate, self._eta(progress, now)]
        if progress.inferences:
            parts.append(f"critical {share(progress.critical, progress.inferences)}")
        sys.stderr.write(", ".join(part for part in parts if part) + "\n")

    def _eta(self, progress: Progress, now: float) -> str:
        self.first = self.first or (now, progress.done)
        seconds, done = now - self.first[0], progress.done - self.first[1]
        return f"ETA {seconds / done * (progress.total - progress.done):,.0f} s" if done and seconds else ""


def print_campaign(campaign: Campaign) -> None:
    """Print totals, shares per bit class, the worst injections and where everything lies."""
    golden, summary = campaign.golden, campaign.summary
    totals = summary.totals
    accuracy = share(golden["top_1_correct"], golden["inputs"]) if golden["top_1_correct"] is not None else "unknown"
    out.print(
        f"{golden['network']} on {golden['dataset']}: {summary.injections} injections x {golden['inputs']} inputs "
        f"= {totals['inputs']:,} inferences; clean top-1 accuracy {accuracy}"
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
    out.print(f"run directory: {campaign.run}")


def _shares(counts: Counts) -> list[str]:
    inputs = counts["inputs"]
    return [share(counts[name], inputs) for name in ("masked", "non_critical", "critical", "critical_nonfinite")]
