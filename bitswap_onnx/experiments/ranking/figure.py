"""The figure of a ranking experiment: S-curves and residual risk."""

from pathlib import Path

import numpy as np

from bitswap_onnx.experiments.ranking.builtin import BUILTIN_RANKINGS
from bitswap_onnx.experiments.ranking.results import Robustness, ScoredRanking, ranking_files
from bitswap_onnx.report.figures import Curve, Panel, save_figure

#: Rankings drawn as references, against which the others are read.
_REFERENCES = ("random", "oracle")


def plot_robustness(robustness: Robustness) -> tuple[Path, Path]:
    """Draw `ranking_panels` into ``<model>_rank.svg`` and ``.png``; return both.

    Raises MissingExtraError without matplotlib.
    """
    return save_figure(ranking_files(robustness.run, robustness.network)["svg"], ranking_panels(robustness))


def ranking_panels(robustness: Robustness) -> list[Panel]:
    """Return the S-curves and the residual risk of all rankings.

    Named are the references, then rankings of the user's own, then built-in ones from the best score on; others are grey.
    """
    curves, risks = [], []
    for ranked in sorted(robustness.rankings, key=_importance):
        name, reference = ranked.name, ranked.name in _REFERENCES
        curves.append(Curve(name, np.arange(1, len(ranked.curve) + 1), ranked.curve, reference=reference))
        if not np.isnan(ranked.risk.macs).any():
            risks.append(Curve(name, 100 * ranked.risk.macs, 100 * ranked.risk.unmonitored, reference=reference))
    about = "layers monitored", "accuracy under faults there, %"
    panels = [Panel("S-curves: lower is better", *about, curves, x_whole=True)]
    if risks:
        panels.append(Panel("Residual risk", "monitored, % of MACs", "critical left, %", risks, y_range=(0, 100)))
    return panels


def _importance(ranked: ScoredRanking) -> tuple[bool, bool, float]:
    """Return what sorts rankings by how much a reader wants to see them."""
    return ranked.name not in _REFERENCES, ranked.name in BUILTIN_RANKINGS, ranked.score.score.value
