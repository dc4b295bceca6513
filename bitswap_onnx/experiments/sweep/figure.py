"""The figure of a sweep: accuracy and outcomes against the bit error rate."""

from pathlib import Path

import numpy as np

from bitswap_onnx.experiments.sweep.results import Sweep, mean_with_interval
from bitswap_onnx.report.figures import Curve, Panel, save_figure


def plot_sweep(sweep: Sweep) -> tuple[Path, Path]:
    """Draw `sweep_panels` into ``<model>.svg`` and ``<model>.png``, and return both paths.

    Raises MissingExtraError without matplotlib.
    """
    return save_figure(sweep.run / sweep.network, sweep_panels(sweep))


def sweep_panels(sweep: Sweep) -> list[Panel]:
    """Return accuracy and outcomes against the rate; bands show intervals.

    Without labels, accuracy is agreement with the golden prediction.
    """
    correct = sweep.golden["top_1_correct"] is not None
    accuracy = {"top_1_correct": "top-1", "top_5_correct": "top-5"} if correct else {"top_1_robust": "top-1 as golden"}
    outcomes = {"critical": "critical", "nonfinite": "nonfinite"}
    panels = [_panel(sweep, "Accuracy", accuracy), _panel(sweep, "Outcomes", outcomes)]
    return [panel for panel in panels if panel.curves]


def _panel(sweep: Sweep, title: str, names: dict[str, str]) -> Panel:
    """Return a curve for each measure that applies, and for accuracy a line without errors; names need room above 100."""
    rates = np.array([row.rate for row in sweep.rows])
    curves = []
    for name, label in names.items():
        golden = sweep.golden[name]
        if golden is not None:
            shares = np.array([mean_with_interval(row.means[name]) for row in sweep.rows], np.float64)
            mean, low, high = 100 * shares.T
            curves.append(Curve(label, rates, mean, low, high))
            if title == "Accuracy":
                curves.append(Curve(f"{label}, golden", rates, np.full(len(rates), 100 * golden), reference=True))
    return Panel(title, "bit error rate", "% of inputs", curves, x_log=True, y_range=(0, 110))
