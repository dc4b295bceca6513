"""The ticks of a figure's axes."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def make_whole(ax: "Axes") -> None:
    """Put ticks at whole numbers alone."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=(1, 2, 5, 10), min_n_ticks=1))


def make_logarithmic(ax: "Axes") -> None:
    """Label decades; an axis that spans fewer than two decades gets labels between them too."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    ax.set_xscale("log")
    low, high = ax.get_xlim()
    if high < 10 * low:
        ax.xaxis.set_major_locator(MaxNLocator(4))
    elif high < 100 * low:
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 30 * low else (1, 3)))
    ax.xaxis.set_major_formatter(_scientific)
    ax.xaxis.set_minor_formatter("")


def _scientific(value: float, position: float = 0) -> str:
    """Return ``10⁻⁶`` or ``2.5×10⁻⁶``; matplotlib's own labels need its mathematical notation, which is switched off."""
    digits, exponent = f"{value:.6e}".split("e")
    mantissa = "" if float(digits) == 1 else f"{float(digits):g}×"
    return mantissa + "10" + str(int(exponent)).translate(_SUPERSCRIPTS)
