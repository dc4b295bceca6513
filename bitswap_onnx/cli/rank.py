"""``rank``: how good a ranking of layers is for selective monitoring."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.cli import console
from bitswap_onnx.cli.inject import watched
from bitswap_onnx.cli.options import Exclude, Layers, ModelPath, Plot, with_shared
from bitswap_onnx.errors import BitswapError
from bitswap_onnx.experiments.ranking.report import write_robustness
from bitswap_onnx.experiments.ranking.results import Robustness, ScoredRanking
from bitswap_onnx.experiments.ranking.run import BUILTIN_RANKINGS, evaluate_robustness
from bitswap_onnx.report.figures import require_matplotlib
from bitswap_onnx.report.ranking import plot_robustness
from bitswap_onnx.stats.intervals import CONFIDENCE_LEVEL
from bitswap_onnx.stats.rankings import BootstrapEstimate


@with_shared
def command(
    model: ModelPath,
    settings: Settings,
    options: RunOptions,
    ranking: Annotated[
        list[Path] | None, typer.Option(help="A ranking to score (.json, .csv); may be given several times.")
    ] = None,
    form: Annotated[
        Literal["order", "rank-values"] | None,
        typer.Option("--as", help="What plain numbers in --ranking are: layers in order, or each layer's rank."),
    ] = None,
    builtin: Annotated[
        str, typer.Option(metavar="NAME,..|all|none", help=f"Built-in rankings: {', '.join(BUILTIN_RANKINGS)}.")
    ] = "all",
    site: Annotated[
        Literal["neurons", "weights"],
        typer.Option(help="neurons: what a layer takes in, per input anew; weights: its kernel, for all inputs."),
    ] = "neurons",
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="Faults per input (neurons, default 1) or per layer (weights, default 200)."),
    ] = None,
    evaluation_steps: Annotated[int | None, typer.Option(min=1, help="Batches of inputs to use. Default: all.")] = None,
    layers: Layers = None,
    exclude: Exclude = None,
    layer_type: Annotated[
        str | None, typer.Option(metavar="TYPE,..", help="Types of layers, as PyTorch, Keras or ONNX call them.")
    ] = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="First layers whose overlap is compared. Default: a quarter.")
    ] = None,
    plot: Plot = False,
) -> None:
    """Inject faults layer by layer, then score rankings of the layers: which to monitor first."""
    if plot:
        require_matplotlib()
    with watched(options) as watched_options:
        robustness = evaluate_robustness(
            model,
            _named(ranking or []),
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
    files = write_robustness(robustness)
    _print(robustness, (*files, *(plot_robustness(robustness) if plot else ())))


def _named(paths: list[Path]) -> dict[str, Path]:
    named = {path.stem: path for path in paths}
    clash = [name for name in named if name in BUILTIN_RANKINGS]
    if len(named) < len(paths) or clash:
        what = f"the name of a built-in ranking ({clash[0]})" if clash else "two files of one name"
        raise BitswapError(f"--ranking: a ranking goes by its file's name; expected different ones, found {what}")
    return named


def _builtin(text: str) -> tuple[str, ...]:
    if text in ("all", "none"):
        return BUILTIN_RANKINGS if text == "all" else ()
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _print(robustness: Robustness, files: Iterable[Path]) -> None:
    """Print the layers, the rankings from the best to the worst, and which of them cannot be told apart."""
    right = "Right %" if robustness.labelled else "As golden %"
    faults = f"{robustness.trials} fault{'' if robustness.trials == 1 else 's'} per "
    faults += "input, in what a layer takes in" if robustness.where == "neurons" else "layer, in its kernel"
    golden = f"without faults {100 * robustness.golden:.2f} % are right" if robustness.labelled else "no labels"
    layers = console.table(
        f"{robustness.network} on {robustness.dataset}, {robustness.inputs} inputs: {faults}; {golden}",
        *(">No.", "Layer", "Type", f">{right}", ">Critical %", ">Nonfinite %", ">Parameters", ">MMACs", ">Bits"),
    )
    for layer in robustness.layers:
        shares = (f"{100 * value:.2f}" for value in (layer.correct, layer.critical, layer.nonfinite))
        cost = f"{layer.cost.parameters:,}", f"{layer.cost.macs / 1e6:.3g}", f"{layer.bits:,}"
        layers.add_row(str(layer.number), layer.name, layer.kind, *shares, *cost)
    console.out.print(layers)
    if robustness.rankings:
        console.out.print(_rankings(robustness))
    _print_pairs(robustness)
    console.out.print(f"written: {', '.join(map(str, files))}")


def _rankings(robustness: Robustness) -> Table:
    """Return the rankings, the best of all layers first."""
    interval = f"{100 * CONFIDENCE_LEVEL:g} % interval"
    table = console.table(
        "Rankings: score (lower is better; best and worst of all orders beside it); normalised: 0 as at random, 1 as the "
        "oracle that learns from half of the data (who learns from all can do better)",
        *("Ranking", ">Score", f">{interval}", ">Best", ">Worst", ">Normalised", f">{interval}", ">Layers"),
    )

    def place(ranked: ScoredRanking) -> tuple[int, float]:
        return -ranked.score.layers, ranked.score.score.value

    for ranked in sorted(robustness.rankings, key=place):
        score = ranked.score
        bounds = (f"{value:.3f}" for value in (score.in_sample.oracle, score.in_sample.worst))
        covered = f"{score.layers} of {score.all_layers}"
        table.add_row(ranked.name, *_estimate(score.score, 3), *bounds, *_estimate(score.normalised, 2), covered)
    return table


def _print_pairs(robustness: Robustness) -> None:
    told = [pair for pair in robustness.pairs if pair.difference and pair.difference.verdict.startswith("the ")]
    compared = [pair for pair in robustness.pairs if pair.difference]
    if compared:
        console.out.print(f"{len(compared) - len(told)} of {len(compared)} pairs of rankings cannot be told apart")
    if told:
        console.out.print(
            f"the others ({100 * CONFIDENCE_LEVEL:g} % intervals each; "
            f"{len(compared) * (1 - CONFIDENCE_LEVEL):.1f} by chance, were all alike):"
        )
    for pair in told:
        assert pair.difference is not None
        better = (pair.first, pair.second) if pair.difference.score.value < 0 else (pair.second, pair.first)
        low, high = sorted(abs(end) for end in (pair.difference.score.low, pair.difference.score.high))
        console.out.print(f"  {better[0]} is better than {better[1]} by {low:.3f} to {high:.3f} points")


def _estimate(estimate: BootstrapEstimate, digits: int) -> tuple[str, str]:
    """Return a value and its interval, dashes for what the data do not settle."""
    if not math.isfinite(estimate.value) or not (math.isfinite(estimate.low) or math.isfinite(estimate.high)):
        return "-", "-"
    return f"{estimate.value:.{digits}f}", f"[{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"
