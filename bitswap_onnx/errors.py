"""The one family of errors that bitswap-onnx raises for its users.

Every message is one line: what was expected, what was found, where, and what to do about it. It names parameters in
backticks, as in "`batch_size`: expected a positive number", never command-line options. The command line prints it
without a traceback and exits with ``exit_code``. Any other exception is a defect of ours and keeps its traceback.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import index
from os import PathLike
from pathlib import Path
from typing import SupportsIndex, TypeVar

_Checked = TypeVar("_Checked")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return up to four names of ``known`` that are closest to ``name``, as text for the end of a message."""
    folded = {known_name.lower(): known_name for known_name in known}
    close = difflib.get_close_matches(name.lower(), folded, n=4, cutoff=0.3) or list(folded)[:4]
    return ", ".join(folded[match] for match in close) or "none"


def amount(number: int, noun: str, form: str = "") -> str:
    """Return ``1 fault`` or ``2 faults``, the number in a format such as ``,``."""
    return f"{number:{form}} {noun}{'' if number == 1 else 's'}"


#: A value as onnx_ir writes it: ``%"input"<INT64,[N,2]>``.
_VALUE = re.compile(r'%"([^"]+)"<[^>]*>')


def one_line(error: BaseException) -> str:
    """Return the message of another library's error on one line of at most 300 characters, its values by their names."""
    text = _VALUE.sub(r"\1", " ".join(str(error).split()))
    return text[:300] or type(error).__name__


def printable(text: str) -> str:
    """Return ``text`` on one line that a terminal can show.

    ASCII white space becomes blanks; control and format characters, which may come from a file, become escapes.
    """
    plain = (" " if c in "\t\n\v\f\r" else c for c in text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in plain)


class BitswapError(Exception):
    """An input of the user is wrong, and nothing was written. The message is made `printable`."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class FaultListError(BitswapError):
    """A fault list that cannot be read, or a fault that hits no target."""


class ModelError(BitswapError):
    """A model that cannot be loaded or checked, or does not run with the given settings."""


class DataError(BitswapError):
    """A dataset that cannot be read or does not fit the model."""


class RunError(BitswapError):
    """A run directory or output file that cannot be used: another campaign's, locked, no space left."""


class MissingExtraError(BitswapError):
    """An optional dependency is not installed; the message names the extra."""


class ControlFailedError(BitswapError):
    """A null control, an audit or a conversion check failed, so results would not be trustworthy."""

    exit_code = 3


class InterruptedRunError(BitswapError):
    """The user stopped the campaign; all finished work is saved."""

    exit_code = 130


class SeveralError(BitswapError):
    """Several inputs of the user are missing or wrong; ``errors`` are the errors of each."""

    def __init__(self, errors: Sequence[BitswapError]) -> None:
        self.errors = tuple(errors)
        super().__init__(f"{len(errors)} things are missing or wrong: {'; and '.join(map(str, errors))}")


class Findings:
    """Checks that do not depend on each other: every one is made, and what they found is one error."""

    def __init__(self) -> None:
        self._errors: list[BitswapError] = []

    @contextmanager
    def check(self) -> Iterator[None]:
        """Keep a BitswapError of the block for `raise_all`."""
        try:
            yield
        except SeveralError as several:
            self._errors += several.errors
        except BitswapError as error:
            self._errors.append(error)

    def raise_all(self) -> None:
        """Raise the one error that was found, or SeveralError for more."""
        if len(self._errors) == 1:
            raise self._errors[0]
        if self._errors:
            raise SeveralError(self._errors)


def shown(value: object) -> str:
    """Return a value as a message shows it: text and numbers as they are written, of anything else its type."""
    if isinstance(value, str | int | float | tuple | list) or value is None:
        return repr(value)[:80]
    return f"an object of type {type(value).__name__}"


def check_choice(parameter: str, value: object, choices: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``choices``; raises BitswapError that names the ``parameter`` otherwise."""
    known = tuple(choices)
    if not isinstance(value, str) or value not in known:
        raise BitswapError(f"`{parameter}`: expected {', '.join(known)}, found {shown(value)}")
    return value


def check_whole(parameter: str, value: object, least: int) -> int:
    """Return ``value`` as an int if it is a whole number of at least ``least``.

    Raises BitswapError that names the ``parameter`` otherwise; True and False are no numbers.
    """
    if isinstance(value, bool) or not isinstance(value, SupportsIndex) or index(value) < least:
        raise BitswapError(f"`{parameter}`: expected a whole number of at least {least}, found {shown(value)}")
    return index(value)


def check_flag(parameter: str, value: object) -> None:
    """Raise BitswapError that names the ``parameter`` unless ``value`` is True or False."""
    if not isinstance(value, bool):
        raise BitswapError(f"`{parameter}`: expected True or False, found {shown(value)}")


def check_path(parameter: str, value: object) -> Path:
    """Return ``value``, text or a path, as a path; raises BitswapError that names the ``parameter`` for anything else."""
    if not isinstance(value, str | PathLike) or not str(value):
        raise BitswapError(f"`{parameter}`: expected a path, found {shown(value)}")
    return Path(value)


def check_type(parameter: str, value: object, kind: type[_Checked], advice: str) -> _Checked:
    """Return ``value`` if it is of a ``kind``; raises BitswapError that names the ``parameter``, with ``advice``."""
    if not isinstance(value, kind):
        raise BitswapError(f"`{parameter}`: expected a {kind.__name__}, found {shown(value)}; {advice}")
    return value
