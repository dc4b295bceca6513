"""Rows of CSV files as people and tools write them: one line each, so that a wrong quote cannot swallow its neighbours."""

import csv
import re
from collections.abc import Iterable, Iterator

from bitswap_onnx.errors import FaultListError

#: Control characters but the tab, and what Unicode takes for the end of a line.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def read_rows(source: str, file: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and cells of every line that is not empty; ``file`` is opened with ``newline=""``.

    Raises FaultListError, with line, for a quote that is not closed on its line, text behind a closing quote, a control
    character, and a cell of more than 128 KiB.
    """
    for number, line in enumerate(file, 1):
        text = line.rstrip("\r\n")
        if found := _CONTROL.search(text):
            raise FaultListError(
                f"{source}:{number}: expected text without control characters, found U+{ord(found[0]):04X} at character "
                f"{found.start() + 1}; save the list as plain UTF-8 text"
            )
        cells = _cells(text, f"{source}:{number}") if text else []
        if cells not in ([], [""]):
            yield number, cells


def _cells(text: str, where: str) -> list[str]:
    reader = csv.reader((text,), strict=True)
    try:
        return next(reader)
    except csv.Error as error:
        if "unexpected end" in str(error):
            raise FaultListError(
                f"{where}: a quote is not closed on this line, and no cell may span lines; close the quote, or write a "
                'quote that belongs to the text as ""'
            ) from None
        raise FaultListError(f"{where}: not a CSV row: {error}") from None
