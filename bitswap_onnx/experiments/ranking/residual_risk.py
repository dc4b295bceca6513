"""Residual risk and cost of monitoring the first layers of a ranking."""

from dataclasses import dataclass

import numpy as np

from bitswap_onnx.stats.intervals import Values
from bitswap_onnx.stats.rankings import LayerOrder


@dataclass(frozen=True, eq=False)
class ResidualRisk:
    """Shares (m + 1,) for monitoring the first 0 ... m layers: unmonitored critical faults, monitored MACs and bits."""

    unmonitored: Values
    macs: Values
    bits: Values


def residual_risk(
    order: LayerOrder, critical: Values, macs: Values, bits: Values, exposure: Values | None = None
) -> ResidualRisk:
    """Return the residual risk and the cost of monitoring the first k layers of ``order`` (m,), for k = 0 ... m.

    ``critical``, ``macs``, ``bits`` and ``exposure`` are (layers,). With x_l the ``exposure``, how often faults hit
    layer l (default: its bits), and c_l its ``critical`` share: unmonitored_k = sum of x_l c_l over the layers not
    among the first k / sum over all layers; MACs and bits: sum over the first k / sum over all layers. All of the
    model's layers count, ranked or not. NaN where the sum over all layers is 0.
    """
    risk = critical * (bits if exposure is None else exposure)
    unranked = np.delete(risk, order).sum()
    left = unranked + np.cumsum(np.append(0, risk[order[::-1]]))[::-1]  # from the end: all monitored leaves exactly 0
    return ResidualRisk(_share(left, risk), *(_share(np.cumsum(np.append(0, w[order])), w) for w in (macs, bits)))


def _share(amounts: Values, everything: Values) -> Values:
    total = float(everything.sum())
    return amounts / total if total else np.full(len(amounts), np.nan)
