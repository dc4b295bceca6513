"""Numbers as users write them, in ASCII alone: Python's ``int`` and ``float`` take other digits and underscores too."""

import re
from collections.abc import Callable
from typing import TypeVar

from bitswap_onnx.errors import BitswapError, shown

_Number = TypeVar("_Number", int, float)


def whole(text: str) -> int:
    """Return the whole number that ``text`` spells in ASCII digits; raises ValueError for any other text."""
    return int(_plain(text))


def real(text: str) -> float:
    """Return the number that ``text`` spells in ASCII (also ``nan``, ``inf``); raises ValueError for any other text."""
    return float(_plain(text))


def _plain(text: str) -> str:
    if not text.isascii() or "_" in text:
        raise ValueError(f"expected a number in ASCII digits, found {text!r}")
    return text


def numbers_in(parameter: str, text: str, kind: Callable[[str], _Number]) -> tuple[_Number, ...]:
    """Return the numbers in a text like ``3,32,32``; raises BitswapError that names the ``parameter`` for any other text."""
    try:
        return tuple(kind(part.strip()) for part in text.strip(" ()[]").split(","))
    except ValueError:
        raise BitswapError(f"`{parameter}`: expected numbers separated by commas, found {text!r}") from None


def parse_size(size: object, parameter: str = "memory") -> int:
    """Return the number of bytes in ``4G``, ``500M`` or a plain number; raises BitswapError for anything else."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([KMGT]?)(?:i?B)?", str(size).strip(), re.I | re.A)
    found = int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " ")) if match else 0
    if found < 1 or isinstance(size, float):
        raise BitswapError(f"`{parameter}`: expected a size like 500M or 4G, found {shown(size)}")
    return found
