"""The mean over faults and inputs, where every fault ran on every input and the inputs count as a sample too.

The value of fault i on input j is Y_ij = mean + a_i + b_j + e_ij. The variance of the sample's mean has two parts. The
first comes from the faults, on the inputs that ran; `bitswap_onnx.stats.stratified` estimates it. The second comes from
the inputs, for the mean over all faults. With the weight w_i = W_h / n_h of a fault of stratum h, the column means c_j
= sum w_i Y_ij over n faults, their variance s_c^2 over m inputs, and the residual mean square s_eh^2 of stratum h, the
second part is

    (s_c^2 - sum W_h^2 (1 - n_h / N_h) s_eh^2 / n_h) / m,

without bias: the sum that is subtracted is the scatter of column means that comes from drawing only some faults. For
one stratum of an infinite population both parts add up to s_rows^2 / n + s_cols^2 / m - s_e^2 / (n m), as in the
two-way random effects model (Owen 2007, The pigeonhole bootstrap, doi 10.1214/07-AOAS122; rows plus columns minus their
overlap as in Cameron, Gelbach and Miller 2011, doi 10.1198/jbes.2010.07136). ``python -m
tests.benchmarks.two_way_coverage`` measures the coverage of the intervals.
"""

import math
from typing import NamedTuple

import numpy as np

from bitswap_onnx.stats.intervals import Values, fewest_faults
from bitswap_onnx.stats.stratified import Estimate


class Margins(NamedTuple):
    """Sums of a matrix of zeros and ones, faults x inputs: of its rows (faults,) and of its columns (inputs,)."""

    rows: Values
    columns: Values


class InputPart(NamedTuple):
    """The weighted column means (inputs,) of a group's faults; ``excess``: the variance they have from the faults."""

    columns: Values
    excess: float


def add_stratum(part: InputPart | None, margins: Margins, share: float, unseen: float) -> InputPart:
    """Return the part of a group's inputs with one more stratum, of weight ``share``; ``unseen``: 1 - n_h / N_h.

    A stratum of one fault has no residual; nothing is subtracted for it, which is conservative.
    """
    n = len(margins.rows)
    columns, excess = share / n * margins.columns, share**2 * unseen * residual_variance(margins) / n
    return InputPart(columns, excess) if part is None else InputPart(part.columns + columns, part.excess + excess)


def residual_variance(margins: Margins) -> float:
    """Return the residual mean square of a matrix of zeros and ones, with (n - 1)(m - 1) degrees of freedom or 0.

    Its squares sum to sum Y - sum rows^2 / m - sum columns^2 / n + (sum Y)^2 / (n m), for Y^2 = Y.
    """
    rows, columns = (np.asarray(sums, np.float64) for sums in margins)
    n, m, total = len(rows), len(columns), float(rows.sum())
    if n < 2 or m < 2:
        return 0.0
    squares = total - float(rows @ rows) / m - float(columns @ columns) / n + total**2 / (n * m)
    return max(squares, 0.0) / ((n - 1) * (m - 1))


def over_inputs(estimate: Estimate, part: InputPart, level: float, low: float = 0.0, high: float = 1.0) -> Estimate:
    """Return an estimate over all inputs from one conditional on the inputs run, limited to ``low`` .. ``high``.

    The standard error adds the unbiased variance of the inputs' part, or 0 where that is negative. The inputs' part of
    the interval is Student's interval of the column means, each a mean over many faults, with nothing subtracted. The
    distances of both parts to their limits add as squares (MOVER: Zou and Donner 2008, doi 10.1002/sim.3095). With
    fewer than `fewest_faults` inputs the standard error is NaN and the interval is ``low`` to ``high``.
    """
    from scipy import special

    m = len(part.columns)
    if m < fewest_faults(level):
        return estimate._replace(se=math.nan, low=low, high=high)
    variance = float(np.var(part.columns, ddof=1))
    half = float(special.stdtrit(m - 1, (1 + level) / 2)) * math.sqrt(variance / m)
    return estimate._replace(
        se=math.sqrt(estimate.se**2 + max(variance - part.excess, 0.0) / m),
        low=max(low, estimate.mean - math.hypot(estimate.mean - estimate.low, half)),
        high=min(high, estimate.mean + math.hypot(estimate.high - estimate.mean, half)),
    )
