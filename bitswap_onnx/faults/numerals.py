"""Numbers that a user writes: Python's own ``int`` and ``float`` read digits of every script, and underscores."""


def whole(text: str) -> int:
    """Return the whole number that ASCII digits spell; raises ValueError for any other text."""
    return int(_plain(text))


def real(text: str) -> float:
    """Return the number that ASCII characters spell, ``nan`` and ``inf`` included; raises ValueError for any other text."""
    return float(_plain(text))


def _plain(text: str) -> str:
    if not text.isascii() or "_" in text:
        raise ValueError(f"expected a number in ASCII digits, found {text!r}")
    return text
