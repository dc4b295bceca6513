"""Panels for tests of figures: rankings, a sweep, bars of layers."""

import numpy as np

from bitswap_onnx.report.figures import Bars, Curve, Panel

X = np.linspace(0, 1, 21)
RATES = 10.0 ** np.arange(-9, -2)
RANKINGS = (
    "index",
    "reverse",
    "parameters",
    "macs",
    "weight-norm",
    "weight-exponent",
    "activation-range",
    "sensitivity",
)


def rankings(title: str = "S-curve") -> Panel:
    """Eight rankings and two references, the last the highest."""
    powers = np.linspace(0.6, 3, len(RANKINGS))
    curves = [Curve(name, X, 1 - (1 - X) ** power) for name, power in zip(RANKINGS, powers, strict=True)]
    references = [Curve("random", X, X, reference=True), Curve("oracle", X, 1 - (1 - X) ** 6, reference=True)]
    return Panel(title, "layers monitored", "critical covered", [*curves, *references], y_range=(0, 1))


def sweep() -> Panel:
    y = 1 / (1 + RATES / 1e-6)
    return Panel("Sweep", "bit error rate", "accuracy", [Curve("top-1", RATES, y, y - 0.1, y + 0.1)], x_log=True)


def bars(rows: int) -> Bars:
    values = np.linspace(1, 9, rows)
    return Bars("Neurons", "misclassified (%)", [f"block{i}.conv" for i in range(rows)], values, values - 1, values + 1)
