"""``sweep``: accuracy against bit error rate."""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.cli import console
from bitswap_onnx.cli.documents import sweep_document
from bitswap_onnx.cli.inject import watched
from bitswap_onnx.cli.option_groups import fault_option
from bitswap_onnx.cli.option_types import Exclude, ModelPath, Plot
from bitswap_onnx.cli.options import with_shared
from bitswap_onnx.cli.view import View
from bitswap_onnx.errors import amount
from bitswap_onnx.experiments.sweep.rates import DEFAULT_REPEATS, parse_rates

if TYPE_CHECKING:
    from bitswap_onnx.campaign.settings import Settings
    from bitswap_onnx.experiments.sweep.results import Sweep
    from bitswap_onnx.stats.clustered import Mean


@with_shared
def command(
    model: ModelPath,
    settings: "Settings",
    options: RunOptions,
    view: View,
    rates: Annotated[
        str,
        fault_option(metavar="LOW:HIGH|R,..", help="Bit error rates: LOW, ten times LOW, ... up to HIGH; or a list."),
    ],
    repeats: Annotated[int, fault_option(metavar="N", min=1, help="Random draws of flips per rate.")] = DEFAULT_REPEATS,
    layers: Annotated[
        str | None,
        fault_option(metavar="NAME,..", help="Only these layers or parameters: globs or parts of names. Default: all."),
    ] = None,
    exclude: Exclude = None,
    site: Annotated[
        Literal["weights", "neurons", "both"],
        fault_option(
            help="weights: bits of stored parameters, the same flips for all inputs; neurons: bits of layers' outputs, new "
            "flips for every input."
        ),
    ] = "weights",
    plot: Plot = False,
) -> None:
    """Flip random bits at several bit error rates and measure the accuracy; --seed also seeds the flips."""
    from bitswap_onnx.experiments.sweep.figure import plot_sweep
    from bitswap_onnx.experiments.sweep.run import sweep_errors
    from bitswap_onnx.report.figures import require_matplotlib

    if plot:
        require_matplotlib()
    with watched(options, view) as watched_options:
        sweep = sweep_errors(
            model,
            parse_rates(rates),
            repeats=repeats,
            layers=layers,
            exclude=exclude,
            site=site,
            settings=settings,
            options=watched_options,
        )
    files = (*sweep.files, *(plot_sweep(sweep) if plot else ()))
    view.print(sweep.run, partial(sweep_document, sweep, files), partial(_print, sweep, files))


def _print(sweep: "Sweep", files: Iterable[Path]) -> None:
    """Print a row per rate, then the paths of the files."""
    from bitswap_onnx.stats.intervals import CONFIDENCE_LEVEL

    names = {"top_1_correct": "Top-1", "top_5_correct": "Top-5", "critical": "Critical", "nonfinite": "Nonfinite"}
    if sweep.golden["top_1_correct"] is None:
        names = {"top_1_robust": "Top-1 as golden", "critical": "Critical", "nonfinite": "Nonfinite"}
    shown = {name: title for name, title in names.items() if sweep.golden[name] is not None}
    result = console.table(
        f"{sweep.network} on {sweep.dataset}, {amount(sweep.inputs, 'input')}: random flips among {sweep.bits:,} bits; "
        f"shares in % with their {100 * CONFIDENCE_LEVEL:g} % intervals",
        ">Rate",
        ">Mean flips",
        ">Repeats with flips",
        *(f">{title}" for title in shown.values()),
    )
    result.add_row("0", "0", "", *(f"{100 * (sweep.golden[name] or 0):.2f}" for name in shown))
    for row in sweep.rows:
        shares = [_share(row.means[name]) for name in shown]
        flipped = f"{row.flipped} of {row.repeats}"
        result.add_row(f"{row.rate:g}", f"{row.flips:,.2f}", flipped, *shares)
    console.out.print(result)
    console.print_notes(_notes(sweep), "")
    console.out.print(f"written: {', '.join(map(str, files))}")


def _notes(sweep: "Sweep") -> Iterator[str]:
    """Yield what the shares and their intervals are."""
    yield (
        "means over the repeats of a rate; top-1, top-5: right predictions; critical: the top-1 class is not the golden "
        "one; nonfinite: a score is NaN or Inf; rate 0: the golden run"
    )
    from bitswap_onnx.experiments.sweep.results import repeat_interval
    from bitswap_onnx.stats.clustered import Mean

    repeats = max((row.repeats for row in sweep.rows), default=0)
    equal = repeat_interval(Mean(repeats, 0.0, 0.0))
    if equal:
        yield (
            f"intervals: Student's over the repeats, so a rare harmful draw that none of them was is not in them: at low "
            f"rates take many --repeats; where all {repeats} are equal, {100 * equal[1]:.2f} points to each side, since so "
            "many of all possible draws may differ without being among them"
        )


def _share(mean: "Mean | None") -> str:
    from bitswap_onnx.experiments.sweep.results import repeat_interval

    if mean is None:
        return "-"
    bounds = repeat_interval(mean)
    return f"{100 * mean.mean:.2f}" + (f" [{100 * bounds[0]:.2f}, {100 * bounds[1]:.2f}]" if bounds else "")
