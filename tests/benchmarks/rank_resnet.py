"""How good the built-in rankings of ResNet20's layers are, with its trained weights: the table of the README and its figure.

``python -m tests.benchmarks.rank_resnet [--inputs I] [--trials T] [--site neurons|weights] [--out RUN]`` injects T faults
per input (``weights``: per layer) into each of the 20 layers with kernels, and as many again for ``sensitivity``, scores
all built-in rankings, and draws them. Prints a markdown table, the best and the worst order, which pairs can be told
apart, how long it took, and where the figure is.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.experiments.ranking.figure import plot_robustness
from bitswap_onnx.experiments.ranking.report import write_robustness
from bitswap_onnx.experiments.ranking.results import Robustness
from bitswap_onnx.experiments.ranking.run import evaluate_robustness
from bitswap_onnx.stats.intervals import CONFIDENCE_LEVEL
from bitswap_onnx.stats.rankings import ALIKE, BootstrapEstimate
from tests.benchmarks.subjects import add_reference, image_settings, machine, make_subject


def main() -> None:
    parser = argparse.ArgumentParser()
    add_reference(parser)
    parser.add_argument("--inputs", type=int, default=846)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--site", choices=["neurons", "weights"], default="neurons")
    parser.add_argument("--out", type=Path, help="the run directory; default: reports/DATASET/NETWORK/TIME")
    options = parser.parse_args()
    print(f"{machine()}\nResNet20, first {options.inputs} images, {options.trials} trials", flush=True)
    settings = replace(image_settings(options.reference, options.inputs), seed=options.seed)
    with tempfile.TemporaryDirectory() as folder:
        model = make_subject("ResNet20", options.reference, Path(folder)).model
        start = time.perf_counter()
        found = evaluate_robustness(
            model, settings=settings, where=options.site, trials=options.trials, options=RunOptions(run=options.out)
        )
        seconds = time.perf_counter() - start
    write_robustness(found)
    figures = plot_robustness(found)
    print("\n".join(table(found)))
    print("\n".join(summary(found)))
    print(f"{seconds:.0f} s; figure: {', '.join(map(str, figures))}")


def table(found: Robustness) -> Iterator[str]:
    """Yield the rankings as markdown, the best first."""
    interval = f"{100 * CONFIDENCE_LEVEL:g} % interval"
    yield f"| ranking | score, % ({interval}) | normalised ({interval}) |"
    yield "|---|---|---|"
    for ranked in sorted(found.rankings, key=lambda entry: entry.score.score.value):
        yield f"| {ranked.name} | {shown(ranked.score.score, 3)} | {shown(ranked.score.normalised, 2)} |"


def summary(found: Robustness) -> Iterator[str]:
    """Yield the extremes of all orders, how sensitive the layers are, and which pairs of rankings can be told apart."""
    extremes, macs = found.rankings[0].score.in_sample, sum(layer.cost.macs for layer in found.layers)
    yield (
        f"{len(found.layers)} layers, {macs / 1e6:.2f} M MACs; without faults {100 * found.golden:.3f} % are right. All "
        f"orders: best {extremes.oracle:.3f}, at random {extremes.random:.3f} (sd {extremes.random_sd:.3f}), "
        f"worst {extremes.worst:.3f}"
    )
    layers = sorted(found.layers, key=lambda layer: layer.correct)
    yield f"most sensitive: {', '.join(f'{layer.name} {100 * layer.correct:.2f} %' for layer in layers[:5])}"
    compared = [pair for pair in found.pairs if pair.difference is not None]
    apart = [pair for pair in compared if pair.difference is not None and pair.difference.verdict != ALIKE]
    yield f"{len(apart)} of {len(compared)} pairs are told apart (the oracle's are left out)"


def shown(estimate: BootstrapEstimate, digits: int) -> str:
    """A value and its interval; open ends where the inputs do not settle them."""
    if not math.isfinite(estimate.value):
        return "-"
    low, high = (f"{end:.{digits}f}" if math.isfinite(end) else "open" for end in (estimate.low, estimate.high))
    return f"{estimate.value:.{digits}f} [{low}, {high}]"


if __name__ == "__main__":
    main()
