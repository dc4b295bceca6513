"""Numbers as users write them, in ASCII alone: Python's ``int`` and ``float`` take other digits and underscores too."""


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
