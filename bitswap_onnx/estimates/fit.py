"""Failures in time of a network in operation: the rate of upsets of its memory times the share of them that do harm.

FIT (failures per 1e9 hours) = raw FIT/Mbit x Mbit x P(f >= theta). An upset is a failure if the critical share of
inferences reaches theta while the upset stays (theta 0: if any inference is critical). The residency is the time that
an upset stays, until the memory is scrubbed or the model is loaded again. It does not change the number of failures; it
gives the part of the time that a harmful upset is there, and the critical share of all inferences in operation.
Campaigns inject one fault at a time. A residency at which two upsets are often in memory together is therefore refused.
"""

from dataclasses import dataclass
from pathlib import Path

from bitswap_onnx.errors import BitswapError, RunError
from bitswap_onnx.estimates.groups import ALL
from bitswap_onnx.estimates.names import HARMFUL, MBITS
from bitswap_onnx.estimates.rates import Rates
from bitswap_onnx.estimates.source import lies_in_run

_HOURS = 1e9
_SECONDS_PER_HOUR = 3600
#: The most upsets in memory on average; at this number, a second one is there in 5 % of the time with at least one.
_MOST_AT_A_TIME = 0.1


@dataclass(frozen=True, kw_only=True)
class Operation:
    """The memory of a network in operation.

    ``fit_per_mbit``: raw upsets per 1e9 hours and Mbit; ``mbit``: the Mbit meant, a name of `MBITS`; ``residency``:
    seconds that an upset stays. ``memory_bits``: size of the memory that the injections were drawn from; None: the number in
    the design. Raises BitswapError for a value outside its range.
    """

    fit_per_mbit: float
    mbit: str
    residency: float
    memory_bits: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.fit_per_mbit < float("inf"):
            raise BitswapError(f"`fit_per_mbit`: expected a number above 0, found {self.fit_per_mbit}")
        if not 0 < self.residency < float("inf"):
            raise BitswapError(f"`residency`: expected seconds above 0, found {self.residency}")
        if self.mbit not in MBITS:
            raise BitswapError(f"`mbit`: expected the size of a Mbit, one of {', '.join(MBITS)}, found {self.mbit!r}")
        if self.memory_bits is not None and self.memory_bits < 1:
            raise BitswapError(f"`memory_bits`: expected a number of bits, at least 1, found {self.memory_bits}")


@dataclass(frozen=True, slots=True)
class Fit:
    """Failures per 1e9 hours with their interval, and all numbers they depend on.

    ``upsets``: per 1e9 hours. ``at_a_time``: mean number of upsets in memory. ``harmed_time``: share of the time during
    which a harmful upset is in memory. ``critical_share``: critical share of all inferences in operation, by the mean
    critical share.
    """

    fit: float
    low: float
    high: float
    level: float
    theta: float
    nonfinite: str
    fit_per_mbit: float
    mbit_bits: int
    bits: int
    residency: float
    upsets: float
    at_a_time: float
    harmed_time: float
    critical_share: float


def failures(rates: Rates, operation: Operation) -> Fit:
    """Return the FIT of a network.

    Raises RunError for rates that do not give the share of harmful faults over all inputs (a two-way question, faults
    that ran over inputs drawn for each), for injections other than single flips of stored bits, where the number of
    bits they were drawn from is not known, for more upsets at a time than single injections tell of, and for too few
    faults.
    """
    source = rates.recorded.source
    if rates.question.over_inputs:
        raise RunError(
            f"{source}: a FIT figure needs the share of harmful faults, which `over_inputs` does not give; leave one out"
        )
    if rates.recorded.from_file and lies_in_run(Path(source)):
        raise RunError(f"{source}: for a FIT figure, estimate the run directory; it knows which inputs ran")
    own_inputs = rates.recorded.own_inputs
    if own_inputs is not None:
        raise RunError(
            f"{source}: a FIT figure needs the share of harmful faults over all inputs, found {own_inputs} inputs drawn for "
            "each fault; run the list without `inputs_per_injection`"
        )
    if not rates.recorded.single_flips:
        raise RunError(f"{source}: a FIT figure needs injections of one flip of a stored bit each, found others")
    bits = operation.memory_bits or (rates.strata.bits if rates.strata else None)
    if bits is None:
        raise RunError(
            f"{source}: the size of the memory is not known; give `memory_bits`, all bits the list was drawn from"
        )
    upsets = operation.fit_per_mbit * bits / MBITS[operation.mbit]
    at_a_time = upsets / _HOURS / _SECONDS_PER_HOUR * operation.residency
    if at_a_time > _MOST_AT_A_TIME:
        raise RunError(
            f"{source}: expected at most {_MOST_AT_A_TIME} upsets in memory on average, found {at_a_time:.3g}; single "
            "injections do not tell what several upsets do; use sweep"
        )
    theta = rates.question.theta
    harmful = rates.find("network", ALL, HARMFUL, theta)
    mean = rates.find("network", ALL, rates.question.leading)
    if harmful.mean is None or mean.mean is None:
        raise RunError(f"{source}: {harmful.faults} faults are too few for a FIT figure")
    return Fit(
        fit=upsets * harmful.mean,
        low=upsets * harmful.low,
        high=upsets * harmful.high,
        level=harmful.level,
        theta=theta,
        nonfinite=rates.question.nonfinite,
        fit_per_mbit=operation.fit_per_mbit,
        mbit_bits=MBITS[operation.mbit],
        bits=bits,
        residency=operation.residency,
        upsets=upsets,
        at_a_time=at_a_time,
        harmed_time=at_a_time * harmful.mean,
        critical_share=at_a_time * mean.mean,
    )
