"""``rank``: scores of layer rankings for selective monitoring."""

import math
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.cli import console
from bitswap_onnx.cli.documents import document_of
from bitswap_onnx.cli.inject import watched
from bitswap_onnx.cli.option_groups import data_option, fault_option, ranking_option
from bitswap_onnx.cli.option_types import Exclude, Layers, LayerType, ModelPath, Plot
from bitswap_onnx.cli.options import with_shared
from bitswap_onnx.cli.tables import PlainTable
from bitswap_onnx.cli.view import View
from bitswap_onnx.errors import BitswapError, amount
from bitswap_onnx.experiments.ranking.builtin import BUILTIN_RANKINGS

if TYPE_CHECKING:
    from bitswap_onnx.campaign.settings import Settings
    from bitswap_onnx.experiments.ranking.results import Robustness, ScoredRanking
    from bitswap_onnx.stats.rankings import BootstrapEstimate

_Site = Annotated[
    Literal["neurons", "weights"],
    fault_option(
        help="neurons: what a layer takes in, new faults for every input; weights: its kernel, the same for all inputs."
    ),
]
_Ranking = Annotated[
    list[Path] | None,
    ranking_option(metavar="FILE", help="A ranking to score (.json, .csv); may be given several times."),
]
_Form = Annotated[
    Literal["order", "rank-values"] | None,
    ranking_option("--as", help="Meaning of plain numbers in --ranking: layers in order, or the rank of each layer."),
]
_EvaluationSteps = Annotated[
    int | None, data_option(metavar="N", min=1, help="Number of batches of inputs to run. Default: all.")
]
_Top = Annotated[
    int | None,
    ranking_option(
        metavar="N", min=1, help="Number of first layers that two rankings are compared by. Default: a quarter."
    ),
]

#: What the columns of the table of rankings are.
_SCORES = (
    "score: accuracy in % under faults in the first k layers, averaged over all k; lower is better: a good ranking has the "
    "layers that faults harm most in front",
    "normalised: 0 is a random order, 1 the oracle that orders by one half of the inputs and is scored on the other (others "
    "can exceed it); -: too few inputs to tell that oracle from a random order",
)


@with_shared
def command(
    model: ModelPath,
    settings: "Settings",
    options: RunOptions,
    view: View,
    ranking: _Ranking = None,
    form: _Form = None,
    builtin: Annotated[
        str, ranking_option(metavar="NAME,..|all|none", help=f"Built-in rankings: {', '.join(BUILTIN_RANKINGS)}.")
    ] = "all",
    site: _Site = "neurons",
    trials: Annotated[
        int | None,
        fault_option(
            metavar="N", min=1, help="Faults per input (neurons, default 1) or per layer (weights, default 200)."
        ),
    ] = None,
    evaluation_steps: _EvaluationSteps = None,
    layers: Layers = None,
    exclude: Exclude = None,
    layer_type: LayerType = None,
    top: _Top = None,
    plot: Plot = False,
) -> None:
    """Inject faults layer by layer, then score rankings of the layers: which layers to monitor first."""
    from bitswap_onnx.experiments.ranking.run import evaluate_robustness
    from bitswap_onnx.report.figures import require_matplotlib

    if plot:
        require_matplotlib()
    with watched(options, view) as watched_options:
        robustness = evaluate_robustness(
            model,
            rankings=_named(ranking or []),
            form=form,
            builtin=_builtin(builtin),
            settings=settings,
            where=site,
            trials=trials,
            evaluation_steps=evaluation_steps,
            layers=layers,
            exclude=exclude,
            layer_type=layer_type,
            top=top,
            options=watched_options,
        )
    files, document = _write(robustness, plot)
    view.print(robustness.run, partial(document_of, document, files), partial(_print, robustness, files))


def _write(robustness: "Robustness", plot: bool) -> tuple[tuple[Path, ...], Path]:
    """Write all files; return them, and the one that holds everything."""
    from bitswap_onnx.experiments.ranking.figure import plot_robustness
    from bitswap_onnx.experiments.ranking.report import write_robustness

    written = write_robustness(robustness)
    return (*written, *(plot_robustness(robustness) if plot else ())), written[-1]


def _named(paths: list[Path]) -> dict[str, Path]:
    named = {path.stem: path for path in paths}
    clash = [name for name in named if name in BUILTIN_RANKINGS]
    if len(named) < len(paths) or clash:
        found = f"the name of a built-in ranking ({clash[0]})" if clash else "two files of one name"
        raise BitswapError(
            f"--ranking: a ranking has the name of its file; expected different names, found {found}; rename the file"
        )
    return named


def _builtin(text: str) -> tuple[str, ...]:
    if text in ("all", "none"):
        return BUILTIN_RANKINGS if text == "all" else ()
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _print(robustness: "Robustness", files: Iterable[Path]) -> None:
    """Print the layers, the rankings from the best to the worst, and the pairs of rankings that differ."""
    right = "Right %" if robustness.labelled else "As golden %"
    faults = f"{amount(robustness.trials, 'fault')} per "
    faults += "input, in the inputs of a layer" if robustness.where == "neurons" else "layer, in its kernel"
    golden = f"without faults {100 * robustness.golden:.2f} % are right" if robustness.labelled else "no labels"
    layers = console.table(
        f"{robustness.network} on {robustness.dataset}, {amount(robustness.inputs, 'input')}: {faults}; {golden}",
        *(">No.", "Layer", "Type", f">{right}", ">Critical %", ">Nonfinite %", ">Parameters", ">MMACs", ">Bits"),
    )
    for layer in robustness.layers:
        shares = (f"{100 * value:.2f}" for value in (layer.correct, layer.critical, layer.nonfinite))
        cost = f"{layer.cost.parameters:,}", f"{layer.cost.macs / 1e6:.3g}", f"{layer.bits:,}"
        layers.add_row(str(layer.number), layer.name, layer.kind, *shares, *cost)
    console.out.print(layers)
    critical = "critical: the top-1 class is not the golden one; nonfinite: a score is NaN or Inf"
    console.out.print(
        f"shares of the inferences with faults in a layer; {critical}; MMACs: million multiply-accumulates per input"
    )
    if robustness.rankings:
        console.out.print(_rankings(robustness))
        console.print_notes(_SCORES, "")
    _print_pairs(robustness)
    console.out.print(f"written: {', '.join(map(str, files))}")


def _rankings(robustness: "Robustness") -> PlainTable:
    """Return the table of rankings: those of all layers first, of these the best first."""
    from bitswap_onnx.stats.intervals import CONFIDENCE_LEVEL

    interval = f"{100 * CONFIDENCE_LEVEL:g} % interval"
    table = console.table(
        "Rankings of the layers, beside the scores of the best and the worst order of the same layers",
        *("Ranking", ">Score", f">{interval}", ">Best", ">Worst", ">Normalised", f">{interval}", ">Layers"),
    )

    def place(ranked: "ScoredRanking") -> tuple[int, float]:
        return -ranked.score.layers, ranked.score.score.value

    for ranked in sorted(robustness.rankings, key=place):
        score = ranked.score
        bounds = (f"{value:.3f}" for value in (score.in_sample.oracle, score.in_sample.worst))
        covered = f"{score.layers} of {score.all_layers}"
        table.add_row(ranked.name, *_estimate(score.score, 3), *bounds, *_estimate(score.normalised, 2), covered)
    return table


def _print_pairs(robustness: "Robustness") -> None:
    from bitswap_onnx.stats.intervals import CONFIDENCE_LEVEL
    from bitswap_onnx.stats.rankings import ALIKE

    different = [pair for pair in robustness.pairs if pair.difference and pair.difference.verdict != ALIKE]
    compared = [pair for pair in robustness.pairs if pair.difference]
    if compared:
        console.out.print(f"{len(compared) - len(different)} of {len(compared)} pairs of rankings cannot be told apart")
    if different:
        console.out.print(
            f"the other pairs differ (a {100 * CONFIDENCE_LEVEL:g} % interval each; if no pair differed, "
            f"{len(compared) * (1 - CONFIDENCE_LEVEL):.1f} would appear here by chance):"
        )
    for pair in different:
        assert pair.difference is not None
        better = (pair.first, pair.second) if pair.difference.score.value < 0 else (pair.second, pair.first)
        low, high = sorted(abs(end) for end in (pair.difference.score.low, pair.difference.score.high))
        console.out.print(f"  {better[0]} is better than {better[1]} by {low:.3f} to {high:.3f} points")


def _estimate(estimate: "BootstrapEstimate", digits: int) -> tuple[str, str]:
    """Return a value and its interval, or dashes where the data do not determine them."""
    if not math.isfinite(estimate.value) or not (math.isfinite(estimate.low) or math.isfinite(estimate.high)):
        return "-", "-"
    return f"{estimate.value:.{digits}f}", f"[{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"
