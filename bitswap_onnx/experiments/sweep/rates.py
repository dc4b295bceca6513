"""Bit error rates: read from text, and checked."""

from collections.abc import Iterable, Iterator
from decimal import Decimal
from itertools import pairwise
from numbers import Real

from bitswap_onnx.errors import BitswapError, shown
from bitswap_onnx.faults.numerals import real

#: Repeats of every rate by default.
DEFAULT_REPEATS = 30


def parse_rates(text: str) -> tuple[float, ...]:
    """Return the rates of ``LOW:HIGH`` or of a comma-separated list, ascending.

    ``LOW:HIGH`` means LOW, ten times LOW and so on, and HIGH. Raises BitswapError for other text, and for rates as
    `check_rates` does.
    """
    try:
        ends = [[real(part) for part in end.split(",")] for end in text.split(":")]
    except ValueError:
        ends = []
    match ends:
        case [rates]:
            return check_rates(rates)
        case [[low], [high]]:
            check_rates({low, high})
            if low >= high:
                raise BitswapError(f"`rates`: expected LOW:HIGH with LOW below HIGH, found {text!r}")
            return check_rates([*_decades(low, high), high])
    raise BitswapError(f"`rates`: expected LOW:HIGH or numbers separated by commas, like 1e-10:1e-6, found {text!r}")


def _decades(low: float, high: float) -> Iterator[float]:
    """Yield ``low``, ten times ``low`` and so on below ``high``, each the float nearest to its decimal value."""
    rate, last = Decimal(repr(low)), Decimal(repr(high))
    while rate < last:
        yield float(rate)
        rate *= 10


def check_rates(rates: Iterable[float] | float) -> tuple[float, ...]:
    """Return ``rates`` ascending; raises BitswapError for no rate, a repeated rate or a rate outside (0, 1)."""
    values: tuple[object, ...] = (
        tuple(rates) if isinstance(rates, Iterable) and not isinstance(rates, str) else (rates,)
    )
    if not all(isinstance(rate, Real) for rate in values):
        raise BitswapError(f"`rates`: expected numbers like [1e-6, 1e-5], found {shown(rates)}")
    given = sorted(float(rate) for rate in values if isinstance(rate, Real))
    if not given:
        raise BitswapError("`rates`: expected at least one bit error rate, found none")
    for rate in given:
        if not 0 < rate < 1:
            raise BitswapError(f"`rates`: expected rates between 0 and 1, both excluded, found {rate:g}")
    twice = next((rate for rate, following in pairwise(given) if rate == following), None)
    if twice is not None:
        raise BitswapError(f"`rates`: {twice:g} is given twice; give each rate once")
    return tuple(given)
