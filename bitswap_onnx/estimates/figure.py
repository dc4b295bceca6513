"""The figure of rates: a panel for each scope, a row for each of its groups."""

from collections.abc import Iterable
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from bitswap_onnx.estimates.names import CURVE
from bitswap_onnx.report.figures import Bars

if TYPE_CHECKING:
    from bitswap_onnx.estimates.rates import Rate

#: Groups of a scope that a figure has room for.
_MOST_GROUPS = 80


def rate_bars(rows: Iterable["Rate"], quantity: str) -> list[Bars]:
    """Return the rates of a quantity with their intervals; of a scope with very many groups, those with the highest ends."""
    chosen = [row for row in rows if row.quantity == quantity and row.scope != CURVE]
    return [_bars(scope, quantity, list(of_scope)) for scope, of_scope in groupby(chosen, key=lambda row: row.scope)]


def _bars(scope: str, quantity: str, rows: list["Rate"]) -> Bars:
    title = scope if scope == "network" else f"by {scope}"
    if len(rows) > _MOST_GROUPS:
        title = f"{title}: {_MOST_GROUPS} of {len(rows)}"
        highest = sorted(rows, key=lambda row: -row.high)[:_MOST_GROUPS]
        rows = [row for row in rows if row in highest]
    values = [np.nan if row.mean is None else row.mean for row in rows]
    numbers = 100 * np.array([values, [row.low for row in rows], [row.high for row in rows]])
    return Bars(title, f"{quantity.replace('_', ' ')}, %", [row.group for row in rows], *numbers)
