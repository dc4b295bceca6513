"""Results of a sweep: shares of the inputs at every rate and repeat, and means over repeats with intervals.

The repeat is the sampling unit and its inputs are a cluster. So an interval is Student's over the repeats, cut to the
range of a share (0 to 1) and conditional on the inputs. `repeat_interval` says what holds where all repeats are equal.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitswap_onnx.errors import RunError, amount
from bitswap_onnx.experiments.sweep.bit_errors import SweepPoint
from bitswap_onnx.stats.clustered import Mean, upper_share
from bitswap_onnx.stats.intervals import CONFIDENCE_LEVEL
from bitswap_onnx.tables import Tabular, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Measures of every point: counts of `bitswap_onnx.outcome.COUNTS`, as shares of all inputs.
SWEEP_MEASURES = ("top_1_correct", "top_5_correct", "top_1_robust", "critical", "nonfinite")

#: Share of the inputs, 0 to 1, per name of `SWEEP_MEASURES`; None where it does not apply (correctness without labels).
Shares = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class RateSummary:
    """One rate: ``flipped`` of its ``repeats`` have a flip, ``flips`` is their mean number over all repeats.

    ``means``: the mean over the repeats, per name of `SWEEP_MEASURES`.
    """

    rate: float
    repeats: int
    flipped: int
    flips: float
    means: dict[str, Mean | None]


@dataclass(frozen=True, eq=False, repr=False)
class Sweep(Tabular):
    """A finished sweep over ``bits`` bits (neurons: of all ``inputs``). ``golden``: the shares without any error.

    ``points`` holds every repeat at every rate with its shares, ``rows`` every rate; both ascend by rate. ``frame()`` has a
    row per rate, as ``<model>.csv``; rate 0 is the golden run.
    """

    notebook_columns = ("rate", "repeats", "flips", "top_1_correct", "top_1_robust", "critical", "nonfinite")

    run: Path
    network: str
    dataset: str
    bits: int
    inputs: int
    golden: Shares
    points: tuple[tuple[SweepPoint, Shares], ...]
    rows: tuple[RateSummary, ...]

    @property
    def files(self) -> tuple[Path, Path]:
        """``<model>.csv``, one row per rate, and ``detail-<model>.csv``, one row per point; rate 0 is the golden run."""
        return sweep_tables(self.run, self.network)

    def headline(self) -> str:
        """Return what ran, and the critical share at the highest rate."""
        last = self.rows[-1].means["critical"]
        at = f"{percent(None if last is None else last.mean)} critical at rate {self.rows[-1].rate:g}"
        return f"{self.network} on {self.dataset}: {amount(len(self.rows), 'bit error rate')}, {at}; run {self.run}"

    def table_rows(self) -> Iterator[dict[str, Any]]:
        """Yield the numbers of each rate."""
        from bitswap_onnx.experiments.sweep.report import rate_rows

        return rate_rows(self)

    def plot(self) -> "Figure":
        """Return a figure: accuracy and outcomes against the rate. Raises MissingExtraError without matplotlib."""
        from bitswap_onnx.experiments.sweep.figure import sweep_panels
        from bitswap_onnx.report.figures import draw_figure

        return draw_figure(sweep_panels(self))


def repeat_interval(mean: Mean) -> tuple[float, float] | None:
    """Return the interval of a mean share at `CONFIDENCE_LEVEL`; None for one repeat, which has no spread.

    Where all repeats are equal, Student's interval has no width. Then a repeat has another share with a probability of
    at most p, Clopper and Pearson's upper bound for none seen. That share can be anything, so the mean moves by at most
    p.
    """
    if mean.n < 2:
        return None
    unseen = upper_share(0, mean.n, (1 + CONFIDENCE_LEVEL) / 2)
    low, high = mean.interval(CONFIDENCE_LEVEL) if mean.se else (mean.mean - unseen, mean.mean + unseen)
    return max(low, 0.0), min(high, 1.0)


def mean_with_interval(mean: Mean | None) -> tuple[float | None, float | None, float | None]:
    """Return a mean and the ends of its interval, None where they do not exist."""
    return (None, None, None) if mean is None else (mean.mean, *(repeat_interval(mean) or (None, None)))


def sweep_tables(run: Path, network: str) -> tuple[Path, Path]:
    """Return the two CSV files of a sweep; raises RunError for a model whose name makes one of them results.csv."""
    if network == "results":
        raise RunError("results.onnx: the sweep's results.csv would be the campaign's; give the model another name")
    return run / f"{network}.csv", run / f"detail-{network}.csv"


def sweep_files(run: Path, network: str) -> tuple[Path, ...]:
    """Return all files that a sweep can write beside its campaign's: the tables, SVG and PNG."""
    return (*sweep_tables(run, network), *(run / f"{network}{suffix}" for suffix in (".svg", ".png")))
