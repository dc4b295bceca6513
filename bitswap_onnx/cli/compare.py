"""``compare``: the paired reliability of two models."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.cli import console
from bitswap_onnx.cli.documents import document_of
from bitswap_onnx.cli.inject import stop_on_signal
from bitswap_onnx.cli.option_groups import comparison_option, run_option
from bitswap_onnx.cli.option_types import BitOrderOption, Out
from bitswap_onnx.cli.options import check_resumed, with_shared
from bitswap_onnx.cli.tables import PlainTable
from bitswap_onnx.cli.view import View
from bitswap_onnx.errors import RunError, amount
from bitswap_onnx.files import folder_of_now

if TYPE_CHECKING:
    from bitswap_onnx.campaign.settings import Settings
    from bitswap_onnx.experiments.comparison.compare_runs import Comparison, ComparisonRow

_LAYERS = 10

#: What the columns of the table of critical shares are.
_VERDICTS = (
    "Differ: faults whose critical share differs, and the exact 95 % upper bound of their share of all faults; finite: "
    "without inferences whose scores are NaN or Inf",
    "verdict: different: not equivalent, and Student's 95 % interval of B - A (low and high of compare.csv) excludes 0; not "
    "shown: the faults show neither, or are fewer than 30",
)
#: What the columns of the table of agreement are.
_AGREEMENT = (
    "McNemar p: how often chance splits the faults so unevenly; kappa: agreement of outcomes beyond chance, 1 for all; "
    "positive agreement: of critical outcomes, 1 for all, - where there is none"
)

_RunB = Annotated[
    Path | None, typer.Argument(metavar="RUN_B", help="A finished run of the same faults on another model.")
]
_Models = Annotated[
    tuple[Path, Path] | None,
    comparison_option(metavar="A.onnx B.onnx", help="Run these two models first, instead of naming RUN_A and RUN_B."),
]
_Faults = Annotated[Path | None, comparison_option(metavar="FAULTS", help="With --models: a fault list for A.onnx.")]
_Delta = Annotated[
    float,
    comparison_option(metavar="POINTS", help="Margin of equivalence, in percentage points of the critical share."),
]
_Theta = Annotated[
    float,
    comparison_option(metavar="SHARE", help="McNemar's test counts faults whose critical share exceeds this, 0 to 1."),
]
_AllowUnpaired = Annotated[
    bool, comparison_option("--allow-unpaired", help="Leave out injections that only one run has.")
]
_Out = Annotated[
    Path | None,
    Out(
        metavar="DIR",
        help="The folder for compare.json and compare.csv, which are replaced. Default: RUN_B; with --models: "
        "reports/compare/A-B/TIME.",
    ),
]
_Workers = Annotated[
    int | None, run_option(metavar="N", min=1, help="With --models: worker processes, one thread each.")
]


@with_shared
def command(
    settings: "Settings",
    view: View,
    run_a: Annotated[Path | None, typer.Argument(metavar="RUN_A", help="A finished run directory.")] = None,
    run_b: _RunB = None,
    models: _Models = None,
    faults: _Faults = None,
    delta: _Delta = 0.1,
    theta: _Theta = 0.0,
    allow_unpaired: _AllowUnpaired = False,
    out: _Out = None,
    resume: Annotated[bool, run_option("--resume", help="With --models: continue the runs in --out.")] = False,
    workers: _Workers = None,
    bit_order: BitOrderOption = "lsb",
) -> None:
    """Compare the outcomes of the same faults in two models, e.g. of PyTorch and Keras; --seed also seeds the bootstrap."""
    from bitswap_onnx.campaign.settings import Settings
    from bitswap_onnx.experiments.comparison.compare_runs import Judgement, compare_runs
    from bitswap_onnx.experiments.comparison.run import compare_models

    judgement = Judgement(delta=delta, theta=theta, seed=settings.seed)
    if models is None:
        if run_a is None or run_b is None or faults is not None or resume or workers is not None:
            raise typer.BadParameter("give RUN_A and RUN_B, or --models A.onnx B.onnx --faults LIST")
        if settings != Settings(seed=settings.seed) or bit_order != "lsb":
            raise typer.BadParameter(
                "expected no options of a run with RUN_A and RUN_B, which are finished; leave them out, or use --models"
            )
        folder = out or run_b
        comparison = compare_runs(run_a, run_b, judgement, allow_unpaired=allow_unpaired)
    else:
        if run_a is not None or faults is None or allow_unpaired or (resume and out is None):
            raise typer.BadParameter(
                "--models A.onnx B.onnx needs --faults LIST, neither RUN_A nor --allow-unpaired; --resume needs --out"
            )
        folder = out or _default_folder(*models)
        if resume:
            check_resumed(folder)
        with view.progress() as on_progress:
            options = RunOptions(
                run=folder,
                resume=resume,
                workers=workers,
                bit_order=bit_order,
                on_progress=on_progress,
                on_notes=view.print_notes_aside,
                stop=stop_on_signal(),
            )
            comparison = compare_models(*models, faults, judgement=judgement, settings=settings, options=options)
    files = _write(comparison, folder)
    view.print(folder, partial(document_of, files[0], files), partial(_print, comparison, folder))


def _default_folder(model_a: Path, model_b: Path) -> Path:
    return folder_of_now(Path("reports/compare", f"{model_a.stem}-{model_b.stem}"))


def _write(comparison: "Comparison", folder: Path) -> list[Path]:
    from bitswap_onnx.experiments.comparison.compare_runs import COMPARISON_FILES

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot make the folder: {error.strerror}; choose another --out") from None
    comparison.write(folder)
    return [folder / name for name in COMPARISON_FILES]


def _print(comparison: "Comparison", folder: Path) -> None:
    from bitswap_onnx.experiments.comparison.compare_runs import COMPARISON_FILES

    about = comparison.about
    for name in ("a", "b"):
        side = about[name]
        accuracy = console.share(side["top_1_correct"], side["inputs"])
        console.out.print(f"{name.upper()}: {side['network']}, clean top-1 accuracy {accuracy} ({side['run']})")
    console.out.print(
        f"{amount(about['injections'], 'injection')} x {amount(about['inputs'], 'input')}; measures {about['measures']}"
    )
    groups = [row for row in comparison.rows if row.scope != "layer"]
    layers = [row for row in comparison.rows if row.scope == "layer" and row.quantity == "critical"]
    layers.sort(key=lambda row: -abs(row.difference))
    critical = [row for row in groups if row.quantity != "masked"]
    masked = [row for row in groups if row.quantity == "masked"]
    console.out.print(_critical_table([*critical, *layers[:_LAYERS]], about["judgement"]["delta"]))
    if len(layers) > _LAYERS:
        console.out.print(f"the {_LAYERS} layers that differ most; all {len(layers)} are in {COMPARISON_FILES[1]}")
    console.print_notes(_VERDICTS, "")
    console.out.print(_agreement_table(critical, about["judgement"]["theta"], about["agreement"]))
    console.out.print(_AGREEMENT)
    if masked:
        console.out.print(_masked_table(masked))
    console.print_notes(about["checked"], "checked: ")
    console.print_notes(about["notes"])
    console.out.print(f"written: {', '.join(str(folder / name) for name in COMPARISON_FILES)}")


def _critical_table(rows: list["ComparisonRow"], delta: float) -> PlainTable:
    title = f"Critical share in %, B - A in points; equivalent: the 90 % interval lies inside ±{delta:g} points"
    names = (
        "Faults in",
        ">Faults",
        ">Differ",
        ">A",
        ">B",
        ">B - A ± SE",
        ">90 % interval",
        ">Bootstrap 95 %",
        "Verdict",
    )
    result = console.table(title, *names)
    for row in rows:
        differing = f"{row.differing} (≤ {100 * row.differing_upper:.2g} %)"
        intervals = _interval(row.tost_low, row.tost_high), _interval(row.bootstrap_low, row.bootstrap_high)
        result.add_row(_group(row), str(row.injections), differing, *_means(row), *intervals, row.verdict or "-")
    return result


def _agreement_table(rows: list["ComparisonRow"], theta: float, per: str) -> PlainTable:
    over = f"over {100 * theta:g} % critical"
    names = ("Faults in", ">Only in A", ">Only in B", ">McNemar p", ">Kappa", ">Positive agreement")
    result = console.table(f"Faults {over} in only one model; agreement of outcomes {per}", *names)
    for row in rows:
        agreement = [_number(value, "{:.3f}") for value in (row.mcnemar_p, row.kappa, row.positive_agreement)]
        result.add_row(_group(row), str(row.mcnemar_a_only), str(row.mcnemar_b_only), *agreement)
    return result


def _group(row: "ComparisonRow") -> str:
    return row.group if row.quantity == "critical" else f"{row.group}, finite"


def _masked_table(rows: list["ComparisonRow"]) -> PlainTable:
    names = ("Faults in", ">Faults", ">A", ">B", ">B - A ± SE", ">95 % interval", ">Bootstrap 95 %")
    result = console.table("Masked share in %: rounding alone can change it", *names)
    for row in rows:
        intervals = _interval(row.low, row.high), _interval(row.bootstrap_low, row.bootstrap_high)
        result.add_row(row.group, str(row.injections), *_means(row), *intervals)
    return result


def _means(row: "ComparisonRow") -> tuple[str, str, str]:
    se = _number(None if row.se is None else 100 * row.se, "{:.3f}")
    return f"{100 * row.share_a:.3f}", f"{100 * row.share_b:.3f}", f"{100 * row.difference:+.3f} ± {se}"


def _interval(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{100 * low:+.3f}, {100 * high:+.3f}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
