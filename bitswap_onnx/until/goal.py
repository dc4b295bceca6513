"""Goals: a share, the margin within which it has to be known, and the confidence; the names of the ways to reach one."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bitswap_onnx.errors import BitswapError

if TYPE_CHECKING:
    from bitswap_onnx.campaign.records import InterimEstimate

UntilScheme = Literal["stratified", "iterative"]

_NUMBER = r"(\d+\.?\d*|\.\d+)"
_GOAL = re.compile(rf"\s*([a-z0-9_-]+)\s*(?:±|\+/?-)\s*{_NUMBER}\s*%\s*@\s*{_NUMBER}\s*%\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Goal:
    """A campaign ends when the mean of ``quantity`` is known within ``margin`` at confidence ``level``.

    Margin and level are fractions. The margin is the half width of the interval.
    """

    quantity: str
    margin: float
    level: float

    def __str__(self) -> str:
        return f"{self.quantity}±{_percent(self.margin)}%@{_percent(self.level)}%"


def parse_goal(text: str) -> Goal:
    """Read a goal like ``critical±0.1%@99%`` (also ``+-``, ``+/-``); raises BitswapError for any other text."""
    match = _GOAL.fullmatch(text)
    if match is not None:
        margin, level = (float(number) / 100 for number in match.groups()[1:])
        if 0 < margin < 1 and 0 < level < 1:
            return Goal(match[1].replace("-", "_"), margin, level)
    raise BitswapError(
        "`until`: expected a share, its margin and the confidence (both above 0 and below 100 %), like "
        f"critical±0.1%@99%, found {text!r}"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.12f}".rstrip("0").rstrip(".")


def is_reached(estimate: "InterimEstimate", goal: Goal) -> bool:
    """Whether an interim estimate is precise enough."""
    return estimate.half_width <= goal.margin
