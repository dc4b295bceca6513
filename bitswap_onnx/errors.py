"""The one family of errors that bitswap-onnx raises for its users.

Every message is one line: what was expected, what was found, where, and what to do about it. The command line prints
it without a traceback and exits with ``exit_code``; every other exception is a defect of ours and stays loud.
"""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the names among ``known`` that are closest to ``name``, for the end of a message."""
    folded = {other.lower(): other for other in known}
    close = difflib.get_close_matches(name.lower(), folded, n=4, cutoff=0.3) or list(folded)[:4]
    return ", ".join(folded[match] for match in close) or "none"


def amount(number: int, noun: str, form: str = "") -> str:
    """Return ``1 fault`` or ``2 faults``, the number in a format such as ``,``."""
    return f"{number:{form}} {noun}{'' if number == 1 else 's'}"


def one_line(error: BaseException) -> str:
    """Return what another library's error says, on one line of bounded length."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def printable(text: str) -> str:
    """Return ``text`` on one line that a terminal shows as it is.

    White space of ASCII becomes blanks; control and format characters, as a file may hold them, become escapes.
    """
    plain = (" " if c in "\t\n\v\f\r" else c for c in text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in plain)


class BitswapError(Exception):
    """Something the user gave is wrong; nothing was written. The message is made `printable`."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class FaultListError(BitswapError):
    """A fault list that cannot be read, or a fault that no target answers to."""


class ModelError(BitswapError):
    """A model that cannot be loaded, checked or run as asked."""


class DataError(BitswapError):
    """A dataset that cannot be read or does not fit the model."""


class RunError(BitswapError):
    """A run directory that cannot be used as asked: another campaign's, locked, full."""


class MissingExtraError(BitswapError):
    """An optional dependency is not installed; the message names the extra."""


class ControlFailedError(BitswapError):
    """A null control, an audit or a conversion check failed: results would not be trustworthy."""

    exit_code = 3


class InterruptedRunError(BitswapError):
    """The user stopped the campaign; all finished work is saved."""

    exit_code = 130
