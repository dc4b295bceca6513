"""Goals: a share to be known to a margin, at a confidence, and what is known after each round."""

import re
from dataclasses import dataclass

from bitswap_onnx.campaign.records import InterimEstimate
from bitswap_onnx.errors import BitswapError

_NUMBER = r"(\d+\.?\d*|\.\d+)"


_GOAL = re.compile(rf"\s*([a-z0-9_-]+)\s*(?:±|\+/?-)\s*{_NUMBER}\s*%\s*@\s*{_NUMBER}\s*%\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Goal:
    """To know the mean of ``quantity`` to ``margin``, at confidence ``level``; both are fractions.

    The margin is half of what is between the interval's limits.
    """

    quantity: str
    margin: float
    level: float

    def __str__(self) -> str:
        return f"{self.quantity}±{_percent(self.margin)}%@{_percent(self.level)}%"


def parse_goal(text: str) -> Goal:
    """Return the goal that ``critical±0.1%@99%`` (also ``+-``, ``+/-``) says; raises BitswapError for another text."""
    match = _GOAL.fullmatch(text)
    if match is not None:
        margin, level = (float(number) / 100 for number in match.groups()[1:])
        if 0 < margin < 1 and 0 < level < 1:
            return Goal(match[1].replace("-", "_"), margin, level)
    raise BitswapError(
        "--until: expected a share, how well it is to be known and how sure (both above 0 and below 100 %), like "
        f"critical±0.1%@99%, found {text!r}"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.12f}".rstrip("0").rstrip(".")


def is_reached(found: InterimEstimate, goal: Goal) -> bool:
    """Whether what is known is enough."""
    return found.half_width <= goal.margin
