"""Requests for statistical fault lists: scheme of the strata, precision that sets their sizes, faults, filters."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from bitswap_onnx.errors import BitswapError
from bitswap_onnx.faults.fault import Kind, parse_kinds
from bitswap_onnx.sampling.choices import IN_TURN, Population, Rounding, SamplingScheme
from bitswap_onnx.sampling.sizes import normal_quantile
from bitswap_onnx.sampling.strata import Pattern, Region

#: Fields of a request that sizes follow from, where these are not given; and those of a scheme that have no effect in it.
_SIZING = ("margin", "confidence", "t", "proportion", "rounding", "population")
_IDLE = {"data-aware": ("proportion",), "exhaustive": _SIZING}
#: Schemes whose strata may have a given size.
_NUMBERED = ("network", "layer", "bit-layer", "per-target", IN_TURN)

#: The name of a bit's stratum in each scheme; bits with the same name are one stratum.
STRATUM_NAMES: dict[str, Callable[[Region, int], str]] = {
    "network": lambda region, bit: "network",
    "layer": lambda region, bit: region.layer,
    "bit-layer": lambda region, bit: f"{region.layer} bit {bit}",
    "data-aware": lambda region, bit: f"{region.layer} bit {bit}",
    "exhaustive": lambda region, bit: region.layer,
    "per-target": lambda region, bit: region.tensor,
    IN_TURN: lambda region, bit: f"{region.tensor} bits {region.bits[0]}-{region.bits[-1]}",
}


@dataclass(frozen=True, slots=True)
class SamplingRequest:
    """The list to draw: the options of ``faults generate``.

    A stratum gets as many injections as estimate a share of ``proportion`` p within ``margin`` e at ``confidence`` (or
    at its normal quantile ``t``); data-aware sizes take p from the weights. ``number``: injections per stratum instead: in
    all (``network``), per layer, per bit of a layer, or ``per-target``, which has no other size. ``kinds``: a tuple of
    `Kind`, or text like ``flip,stuck_at``. ``population``: the number of faults per bit in the formula of sizes: ``flips``
    counts 1, ``stuck_at`` 2; None: the number of ``kinds``. ``layers``, ``exclude``, ``parameters``, ``bits``: filters of
    `find_population`. Raises BitswapError for values outside their range, and for values that do not go together.
    """

    scheme: SamplingScheme | Literal["in-turn"] = "network"
    margin: float = 0.01
    confidence: float = 0.99
    t: float | None = None
    proportion: float = 0.5
    rounding: Rounding = "nearest"
    number: int | None = None
    kinds: Any = (Kind.FLIP,)
    population: Population | None = None
    layers: str | None = None
    exclude: str | None = None
    parameters: str = "weight"
    bits: str | None = None
    multiplicity: int = 1
    burst: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.kinds, str):
            object.__setattr__(self, "kinds", parse_kinds(self.kinds))
        for name, value in (
            ("margin", self.margin),
            ("confidence", self.confidence),
            ("proportion", self.proportion),
        ):
            if not 0 < value < 1:
                raise BitswapError(f"`{name}`: expected a number between 0 and 1, both excluded, found {value:g}")
        if self.t is not None and not 0 < self.t < math.inf:
            raise BitswapError(f"`t`: expected a positive number, found {self.t:g}")
        if self.number is not None and self.scheme not in _NUMBERED:
            raise BitswapError(f"`number`: `scheme` {self.scheme} has its own sizes; leave it out")
        if self.number is None and self.scheme == "per-target":
            raise BitswapError("`number`: expected with `scheme` per-target: injections per target")
        if self.number is not None and self.number < 1:
            raise BitswapError(f"`number`: expected a positive number, found {self.number}")
        Pattern(self.kinds)  # raises for wrong kinds
        if self.multiplicity < 1:
            raise BitswapError(f"`multiplicity`: expected a positive number, found {self.multiplicity}")
        if self.multiplicity > 1 and (self.scheme == "data-aware" or (self.scheme == "exhaustive" and not self.burst)):
            raise BitswapError(f"`multiplicity`: expected 1 with `scheme` {self.scheme}, found {self.multiplicity}")

    @property
    def pattern(self) -> Pattern:
        """The form of one injection."""
        return Pattern(self.kinds, self.multiplicity, self.burst and self.multiplicity > 1)

    @property
    def span(self) -> int:
        """The neighbouring bits of an element that one injection hits."""
        return self.multiplicity if self.pattern.burst else 1

    @property
    def quantile(self) -> float:
        """The normal quantile t that sizes are computed with."""
        return normal_quantile(self.confidence) if self.t is None else self.t


def refuse_idle(request: SamplingRequest) -> None:
    """Raise BitswapError for a field that was set and would have no effect on the list, and for the scheme `IN_TURN`."""
    if request.scheme == IN_TURN:
        raise BitswapError(f"`scheme`: expected one of {', '.join(get_args(SamplingScheme))}, found {IN_TURN}")
    idle = dict.fromkeys(_IDLE.get(request.scheme, ()), f"`scheme` {request.scheme}")
    if request.number is not None:
        idle = dict.fromkeys(_SIZING, "`number`")
    if request.t is not None:
        idle = {"confidence": "`t`"} | idle
    for field in fields(request):
        if field.name in idle and getattr(request, field.name) != field.default:
            raise BitswapError(f"`{field.name}`: with {idle[field.name]} nothing depends on it; leave it out")
    if request.burst and request.multiplicity == 1:
        raise BitswapError("`burst`: expected with `multiplicity`, the number of neighbouring bits, 2 or more; found 1")
