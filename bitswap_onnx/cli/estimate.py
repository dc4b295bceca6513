"""``estimate``: rates of a finished campaign with confidence intervals."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from bitswap_onnx.cli import console
from bitswap_onnx.cli.option_groups import estimate_option, fit_option, outcome_option
from bitswap_onnx.cli.option_types import Json, Out, Plot
from bitswap_onnx.cli.tables import PlainTable
from bitswap_onnx.cli.view import print_json
from bitswap_onnx.errors import BitswapError, amount
from bitswap_onnx.estimates.names import CURVE, HARMFUL, LEADING, MBITS, SCOPES, Nonfinite, Scope

if TYPE_CHECKING:
    from bitswap_onnx.estimates.fit import Fit, Operation
    from bitswap_onnx.estimates.rates import Rate, Rates

_TITLES = {
    "critical": "critical",
    "critical_or_nonfinite": "critical, NaN/Inf counted as critical",
    "critical_finite": "critical, NaN/Inf counted as detected",
    "non_critical": "non-critical",
    "critical_nonfinite": "critical and nonfinite",
    "sdc_5": "SDC-5",
    "sdc_10": "SDC-10 %",
    "sdc_20": "SDC-20 %",
    "accuracy_drop": "accuracy drop",
}
#: What cannot be told from its name, by a quantity that is shown with it.
_MEANINGS = {
    "critical": "a fault's share is that of its inferences; critical: the top-1 class is not the golden one, or an output "
    "moved by more than the run's tolerance",
    "sdc_5": "SDC-5: the top-1 class is not in the golden top-5; SDC-10 %: the golden class's softmax score moved by more "
    "than 10 % of itself",
}
_HEADS = {"layer": "Layer", "bit": "Bit", "bit-class": "Bit class", "layer-bit": "Layer and bit"}
#: Rows of a table on the terminal; JSON and CSV have all.
_MOST = 64


_Source = Annotated[
    Path,
    typer.Argument(metavar="RUN|FILE.csv", help="A finished run directory, or a results file.", show_default=False),
]
_By = Annotated[str, estimate_option(metavar="SCOPE,..", help=f"Tables to print, some of {', '.join(SCOPES)}.")]
_Level = Annotated[
    float,
    estimate_option(
        metavar="LEVEL", help="Confidence level, 0 to 1; in a table of several groups it holds for all rows together."
    ),
]
_Nonfinite = Annotated[
    Nonfinite,
    outcome_option(
        help="Inferences with NaN or Inf scores: judged like all others, always critical, or detected (never critical)."
    ),
]
_Theta = Annotated[
    float | None,
    estimate_option(
        metavar="SHARE",
        help="A fault is harmful if its critical share reaches this, 0 to 1. Default: if any inference is critical.",
    ),
]
_Design = Annotated[
    Path | None,
    estimate_option(
        metavar="F.design.json",
        help="Design of the fault list, written by faults generate. Default: the one recorded in the run, or beside "
        "FILE.csv.",
    ),
]
_OverInputs = Annotated[
    bool,
    estimate_option(
        "--over-inputs", help="Treat the inputs as a sample too: two-way intervals. Needs a run with --per-input."
    ),
]
_FitPerMbit = Annotated[
    float | None,
    fit_option(metavar="R", help="Raw upsets per Mbit in 1e9 hours; adds a FIT figure (failures in time)."),
]
_Residency = Annotated[
    float | None,
    fit_option(metavar="SECONDS", help="Time that an upset stays in memory, until it is scrubbed or loaded again."),
]
_MemoryBits = Annotated[
    int | None,
    fit_option(
        "--memory-bits",
        metavar="N",
        help="Size in bits of the memory that the list was drawn from. Default: the design's.",
    ),
]
_Out = Annotated[Path | None, Out(metavar="FILE.csv", help="A file for all rows as CSV; an existing one is replaced.")]


def command(
    source: _Source,
    by: _By = "network,bit-class,bit",
    level: _Level = 0.95,
    nonfinite: _Nonfinite = "as-is",
    theta: _Theta = None,
    design: _Design = None,
    over_inputs: _OverInputs = False,
    fit_per_mbit: _FitPerMbit = None,
    mbit: Annotated[str | None, fit_option(metavar="|".join(MBITS), help="Size of that Mbit in bits.")] = None,
    residency: _Residency = None,
    memory_bits: _MemoryBits = None,
    as_json: Json = False,
    out: _Out = None,
    plot: Plot = False,
) -> None:
    """Estimate rates with confidence intervals; the fault is the sampling unit, not the inference."""
    from bitswap_onnx.estimates.figure import rate_bars
    from bitswap_onnx.estimates.fit import failures
    from bitswap_onnx.estimates.question import Question
    from bitswap_onnx.estimates.rates import estimate_rates
    from bitswap_onnx.estimates.rates_files import as_record, write_csv
    from bitswap_onnx.report.figures import require_matplotlib, save_figure

    if plot:
        require_matplotlib()
    operation = _operation(fit_per_mbit, mbit, residency, theta, memory_bits)
    scopes = tuple(cast(Scope, part.strip()) for part in by.split(",") if part.strip())
    question = Question(by=scopes, level=level, nonfinite=nonfinite, theta=theta or 0.0, over_inputs=over_inputs)
    rates = estimate_rates(source, question, design)
    fit = None if operation is None else failures(rates, operation)
    if out is not None:
        write_csv(rates, out, design)
    files = [] if out is None else [out]
    if plot:
        files += save_figure(_stem(source, out), rate_bars(rates.rows, question.leading))
    if as_json:
        print_json(as_record(rates, fit))
        return
    _print(rates, fit)
    if files:
        console.out.print(f"written: {', '.join(map(str, files))}")


def _stem(source: Path, out: Path | None) -> Path:
    """Return where figures go, without the ending: beside ``out``, in the run, or beside the results file."""
    if out is not None:
        return out.with_suffix("")
    return source / "estimate" if source.is_dir() else source.with_name(f"{source.stem}_estimate")


def _operation(
    fit_per_mbit: float | None, mbit: str | None, residency: float | None, theta: float | None, memory_bits: int | None
) -> "Operation | None":
    """Return the assumptions of a FIT figure, None where none is asked for; raises BitswapError where one is missing."""
    needed = {"--fit-per-mbit": fit_per_mbit, "--mbit": mbit, "--residency": residency, "--theta": theta}
    if fit_per_mbit is None and mbit is None and residency is None and memory_bits is None:
        return None
    missing = [name for name, value in needed.items() if value is None]
    if fit_per_mbit is None or mbit is None or residency is None or theta is None:
        raise BitswapError(f"a FIT figure needs {', '.join(needed)}; missing {', '.join(missing)}")
    from bitswap_onnx.estimates.fit import Operation

    return Operation(fit_per_mbit=fit_per_mbit, mbit=mbit, residency=residency, memory_bits=memory_bits)


def _print(rates: "Rates", fit: "Fit | None") -> None:
    from bitswap_onnx.estimates.rates_files import method

    recorded, strata = rates.recorded, rates.strata
    drawn = "" if strata is None else f", drawn from {sum(strata.populations):,}; strata: {len(strata.names):,}"
    console.out.print(
        f"{recorded.source}: {amount(len(recorded), 'injection', ',')}{drawn}; "
        f"{amount(int(recorded.inputs.sum()), 'inference', ',')}"
    )
    scopes: dict[str, list[Rate]] = {}
    for row in rates.rows:
        scopes.setdefault(row.scope, []).append(row)
    console.out.print(_network(scopes["network"], rates))
    quantities = {row.quantity for row in scopes["network"]}
    console.print_notes((text for name, text in _MEANINGS.items() if name in quantities), "")
    for scope in _HEADS:
        if scope in scopes and all(row.too_few for row in scopes[scope]) and len(scopes[scope]) > 1:
            console.out.print(
                f"By {_HEADS[scope].lower()}: too few faults in every row; --json and --out have the intervals"
            )
        elif scope in scopes:
            console.out.print(_groups(scopes[scope], rates))
    if CURVE in scopes:
        console.out.print(_curve(scopes[CURVE], rates))
    if fit is not None:
        _print_fit(fit)
    console.out.print(f"method: {method(rates)}")
    console.print_notes(rates.notes)
    console.print_notes([f"inputs: {rates.inputs.name}", rates.inputs.about], "")


def _network(rows: list["Rate"], rates: "Rates") -> PlainTable:
    level = f"{100 * rates.question.level:g} %"
    result = console.table(
        f"Network: means over faults, in %, with {level} intervals", "Share of", ">Estimate ± SE", f">{level} interval"
    )
    for row in rows:
        name = _harmful(row) if row.quantity == HARMFUL else f"inferences {_TITLES.get(row.quantity, row.quantity)}"
        result.add_row(name if row.quantity != "accuracy_drop" else "accuracy lost", *_cells(row))
    return result


def _groups(rows: list["Rate"], rates: "Rates") -> PlainTable:
    """Return the table of a scope: critical and masked shares and, unless inputs are a sample, harmful faults per group."""
    scope, quantities = rows[0].scope, [rates.question.leading, "masked"]
    heads = [_TITLES[rates.question.leading], "masked"]
    if rows[-1].quantity == HARMFUL:
        quantities.append(HARMFUL)
        heads.append(_harmful(rows[-1]))
    groups: dict[str, dict[str, Rate]] = {}
    for row in rows:
        groups.setdefault(row.group, {})[row.quantity] = row
    names = (name for head in heads for name in (f">{head.capitalize()} ± SE", ">Interval"))
    result = console.table(
        f"By {_HEADS[scope].lower()}, in %: {_together(rates, scope, 'rows')}", _HEADS[scope], ">Faults", *names
    )
    for group, by_quantity in list(groups.items())[:_MOST]:
        cells = (cell for quantity in quantities for cell in _cells(by_quantity[quantity]))
        result.add_row(group, f"{by_quantity['masked'].faults:,}", *cells)
    if len(groups) > _MOST:
        result.caption = f"the first {_MOST} of {len(groups)}; --json and --out have all"
    return result


def _curve(rows: list["Rate"], rates: "Rates") -> PlainTable:
    treatment = "" if rates.question.leading == LEADING["as-is"] else f" ({_TITLES[rates.question.leading]})"
    title = f"Share of faults whose critical share f reaches theta{treatment}, in %: {_together(rates, CURVE, 'theta')}"
    result = console.table(title, "Share of", ">Estimate ± SE", ">Interval")
    for row in rows:
        result.add_row(_harmful(row), *_cells(row))
    return result


def _together(rates: "Rates", scope: str, what: str) -> str:
    number = rates.corrected_for[scope]
    validity = f"all {number} {what} together (Bonferroni)" if number > 1 else "the row"
    return f"{100 * rates.question.level:g} % for {validity}"


def _harmful(row: "Rate") -> str:
    return f"faults with f >= {100 * row.theta:g} %" if row.theta else "faults with any critical input"


def _cells(row: "Rate") -> tuple[str, str]:
    if row.mean is None:
        return "too few", f"{_end(row.low, 3)} to {_end(row.high, 3)}"
    se, shown = "-" if row.se is None else _percent(row.se, 2), _percent if row.low == row.high else _end
    return f"{_percent(row.mean, 4)} ± {se}", _interval(row.mean, row.low, row.high, shown)


def _interval(value: float, low: float, high: float, shown: Callable[[float, int], str]) -> str:
    """Return an interval in three digits; in four, as its value, where rounding alone would put the value outside."""
    outside = not float(f"{low:.3g}") <= float(f"{value:.4g}") <= float(f"{high:.3g}")
    digits = 4 if outside else 3
    return f"{shown(low, digits)} to {shown(high, digits)}"


def _end(share: float, digits: int) -> str:
    """Return the end of an interval in percent, without more decimals than a reader needs."""
    return "< 0.001" if 1e-8 <= share < 1e-5 else _percent(share, digits)


def _percent(share: float, digits: int) -> str:
    """Return a percentage with ``digits`` significant digits; less than a millionth of a percent is shown as 0."""
    return f"{100 * share if abs(share) >= 1e-8 else 0:.{digits}g}"


def _print_fit(fit: "Fit") -> None:
    treated = "" if fit.nonfinite == "as-is" else f", nonfinite {fit.nonfinite}"
    harmful = f"critical share >= {fit.theta:g}" if fit.theta else "any critical input"
    interval = _interval(fit.fit, fit.low, fit.high, lambda value, digits: f"{value:.{digits}g}")
    console.out.print(
        f"FIT: {fit.fit:.4g} failures per 1e9 hours ({100 * fit.level:g} %: {interval}); a failure is "
        f"an upset with {harmful}{treated}; {fit.fit_per_mbit:g} FIT per Mbit of {fit.mbit_bits:,} bits, {fit.bits:,} bits"
    )
    console.out.print(
        f"residency {fit.residency:g} s: {fit.at_a_time:.3g} upsets in memory on average; harmful ones are there for "
        f"{fit.harmed_time:.3g} of the time; {fit.critical_share:.3g} of all inferences in operation are critical"
    )
