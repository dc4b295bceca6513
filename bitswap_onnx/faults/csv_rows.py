"""Rows of CSV files, one line each: a wrong quote cannot swallow the lines behind it."""

import csv
import re
from collections.abc import Iterable, Iterator

from bitswap_onnx.errors import FaultListError

#: Control characters other than the tab, and Unicode's line and paragraph separators.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


#: Separators of cells: the first one that stands in the header. Spreadsheets write semicolons where the comma is decimal.
_SEPARATORS = (",", ";", "\t")
_QUOTED = re.compile('"[^"]*"')


def read_rows(source: str, file: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and cells of every line that is not empty; ``file`` is opened with ``newline=""``.

    Cells are separated by commas, semicolons or tabs, as in the first line, which is the header; blanks around quotes do not
    matter. Raises FaultListError, with ``source`` and line, for a quote that is not closed on its line, text behind a
    closing quote, a control character, and a cell of more than 128 KiB.
    """
    separator = ""
    for number, line in enumerate(file, 1):
        text = line.rstrip("\r\n")
        if control := _CONTROL.search(text):
            raise FaultListError(
                f"{source}:{number}: expected text without control characters, found U+{ord(control[0]):04X} at "
                f"character {control.start() + 1}; save the list as plain UTF-8 text"
            )
        separator = separator or next((each for each in _SEPARATORS if each in _QUOTED.sub("", text)), ",")
        cells = _cells(text, separator, f"{source}:{number}") if text else []
        if cells not in ([], [""]):
            yield number, cells


def _cells(text: str, separator: str, where: str) -> list[str]:
    blank = " " if separator == "\t" else "[ \t]"
    text = re.sub(rf'(^|{separator}){blank}+"', r'\1"', text)
    try:
        try:
            return _parsed(text, separator)
        except csv.Error:  # blanks between a closing quote and the separator
            return _parsed(re.sub(rf'"{blank}+(?={separator}|$)', '"', text), separator)
    except csv.Error as error:
        if "unexpected end" in str(error):
            raise FaultListError(
                f"{where}: a quote is not closed on this line, and no cell may span lines; close the quote, or write a "
                'quote that belongs to the text as ""'
            ) from None
        raise FaultListError(f"{where}: not a CSV row: {error}") from None


def _parsed(text: str, separator: str) -> list[str]:
    return next(csv.reader((text,), strict=True, delimiter=separator, skipinitialspace=True))
