"""Failures in time of a network in operation, from how often its memory is upset and what an upset does.

FIT (failures per 1e9 hours) = raw FIT/Mbit x Mbit x P(f >= theta): an upset is a failure if, while it stays, at least the
share theta of the inferences is critical. How long it stays, its residency (until the memory is scrubbed or the model is
loaded again), makes no upset rarer; it says for what part of the time a harmful one is there, and what share of all
inferences in operation is critical. One fault at a time was injected, so more than now and then two at a time is refused.
"""

from dataclasses import dataclass
from pathlib import Path

from bitswap_onnx.campaign.store_file import STORE_NAME
from bitswap_onnx.errors import BitswapError, RunError
from bitswap_onnx.estimates.groups import ALL
from bitswap_onnx.estimates.rates import HARMFUL, Rates

#: What a Mbit is, in bits: memory vendors and radiation reports differ.
MBITS = {"1e6": 1_000_000, "2^20": 1 << 20}

_HOURS = 1e9
_SECONDS_PER_HOUR = 3600
#: More upsets than this at a time, on average, and 5 % of the time with one has another one as well.
_MOST_AT_A_TIME = 0.1


@dataclass(frozen=True, kw_only=True)
class Operation:
    """How a network's memory fares: raw ``fit_per_mbit``, the Mbit meant (a name of `MBITS`), seconds an upset stays.

    ``bits``: of the memory that the injections were drawn from; None: the design's.
    """

    fit_per_mbit: float
    mbit: str
    residency: float
    bits: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.fit_per_mbit < float("inf"):
            raise BitswapError(f"--fit-per-mbit: expected a number above 0, found {self.fit_per_mbit}")
        if not 0 < self.residency < float("inf"):
            raise BitswapError(f"--residency: expected seconds above 0, found {self.residency}")
        if self.mbit not in MBITS:
            raise BitswapError(f"--mbit: expected the size of a Mbit, one of {', '.join(MBITS)}, found {self.mbit!r}")
        if self.bits is not None and self.bits < 1:
            raise BitswapError(f"--bits: expected a number of bits, at least 1, found {self.bits}")


@dataclass(frozen=True, slots=True)
class Fit:
    """Failures per 1e9 hours with their interval, and everything they depend on.

    ``upsets``: per 1e9 hours. ``at_a_time``: upsets in memory on average. ``harmed_time``: part of the time that a harmful
    one is there. ``critical_share``: of all inferences in operation, by the mean critical share.
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

    Raises RunError for injections other than single flips of stored bits, without the number of bits they were drawn from,
    with more upsets at a time than single injections can tell of, where there are too few faults, and where no fault's share
    of all inputs is known: for rates over more than the inputs run, and for faults that ran over inputs of their own.
    """
    source = rates.recorded.source
    if rates.question.over_inputs:
        raise RunError(
            f"{source}: a FIT figure takes the share of harmful faults, which --over-inputs does not give; leave one out"
        )
    if rates.recorded.from_file and (Path(source).parent / STORE_NAME).is_file():
        raise RunError(f"{source}: for a FIT figure, estimate the run directory; it knows which inputs ran")
    own = rates.recorded.own_inputs
    if own is not None:
        raise RunError(
            f"{source}: a FIT figure takes the share of harmful faults over all inputs, and each ran over {own} of its own; "
            "run the list without --inputs-per-injection"
        )
    if not rates.recorded.single_flips:
        raise RunError(f"{source}: a FIT figure takes injections of one flip of a stored bit each, found others")
    bits = operation.bits or (rates.strata.bits if rates.strata else None)
    if bits is None:
        raise RunError(f"{source}: the size of the memory is not known; give --bits, all bits the list was drawn from")
    upsets = operation.fit_per_mbit * bits / MBITS[operation.mbit]
    at_a_time = upsets / _HOURS / _SECONDS_PER_HOUR * operation.residency
    if at_a_time > _MOST_AT_A_TIME:
        raise RunError(
            f"{source}: {at_a_time:.3g} upsets are in memory at a time, on average; single injections do not tell what "
            f"several do (at most {_MOST_AT_A_TIME}); use sweep"
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
