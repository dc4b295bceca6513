"""What is left and what it costs when the first layers of a ranking are monitored."""

from dataclasses import dataclass

import numpy as np

from bitswap_onnx.stats.intervals import Values
from bitswap_onnx.stats.rankings import LayerOrder


@dataclass(frozen=True, eq=False)
class ResidualRisk:
    """Shares (m + 1,) after monitoring the first 0 ... m layers: critical faults left, MACs and bits monitored."""

    unmonitored: Values
    macs: Values
    bits: Values


def residual_risk(
    order: LayerOrder, critical: Values, macs: Values, bits: Values, exposure: Values | None = None
) -> ResidualRisk:
    """Return what monitoring the first k layers of ``order`` leaves and costs, k = 0 ... m; all else is (layers,).

    With x_l the ``exposure``, how often faults hit layer l (default: its bits), and c_l its ``critical`` share:
    unmonitored_k = sum of x_l c_l over the layers not among the first k / sum over all; MACs and bits: sum over the first
    k / sum over all. All of the model's layers count, ranked or not. NaN where there is nothing to share.
    """
    risk = critical * (bits if exposure is None else exposure)
    rest = np.delete(risk, order).sum()
    left = rest + np.cumsum(np.append(0, risk[order[::-1]]))[::-1]  # from the end: all monitored leaves exactly 0
    return ResidualRisk(_share(left, risk), *(_share(np.cumsum(np.append(0, w[order])), w) for w in (macs, bits)))


def _share(part: Values, of: Values) -> Values:
    total = float(of.sum())
    return part / total if total else np.full(len(part), np.nan)
