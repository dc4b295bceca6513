"""Which rates to estimate."""

from dataclasses import dataclass

from bitswap_onnx.errors import BitswapError
from bitswap_onnx.estimates.names import LEADING, SCOPES, Nonfinite, Scope

THETAS = (0.0, 0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.9)


@dataclass(frozen=True, kw_only=True)
class Question:
    """Which rates to estimate: by which scopes (``by``, also as text: ``layer,bit``), at which confidence (``level``).

    ``nonfinite``: the treatment of NaN and Inf scores. ``theta``: a fault is harmful if its critical share reaches it;
    with 0, if any of its inputs is critical. ``thetas``: further points of the curve P(f >= theta). ``over_inputs``:
    the inputs count as a sample too, like the faults. Raises BitswapError for a value outside its range.
    """

    by: tuple[Scope, ...] = ("network", "bit-class", "bit")
    level: float = 0.95
    nonfinite: Nonfinite = "as-is"
    theta: float = 0.0
    thetas: tuple[float, ...] = THETAS
    over_inputs: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.by, str):
            object.__setattr__(self, "by", tuple(part.strip() for part in self.by.split(",")))
        unknown = [name for name in self.by if name not in SCOPES]
        if unknown or not self.by:
            raise BitswapError(f"`by`: expected some of {','.join(SCOPES)}, found {','.join(unknown) or 'nothing'}")
        if not 0 < self.level < 1:
            raise BitswapError(f"`level`: expected a confidence between 0 and 1, like 0.95, found {self.level}")
        if not 0 <= self.theta <= 1:
            raise BitswapError(f"`theta`: expected a share of inputs from 0 to 1, found {self.theta}")

    @property
    def leading(self) -> str:
        """The quantity that counts as critical."""
        return LEADING[self.nonfinite]
