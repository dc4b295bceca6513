"""Tables as wide as the terminal in which no word is broken.

A table that is too wide gets narrower step by step: texts wrap between words, and names of layers behind dots and slashes;
the space beside cells goes; numbers wrap between words too; names of layers are cut anywhere. A header or a number is never
cut: rather than that, lines are longer than the terminal is wide.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.cells import cell_len, chop_cells
from rich.console import Console, ConsoleOptions
from rich.table import Table
from rich.text import Text

from bitswap_onnx.errors import printable

#: The narrowest column of names that are cut anywhere.
_SHORTEST_NAME = 8

Pieces = list[str]


def wrapped(text: str, width: int) -> str:
    """Return a text in lines of at most ``width`` cells, divided between words; a longer word has a line of its own."""
    return "\n".join(_lines(words(text), width))


def words(text: str) -> Pieces:
    """Return the words of a text, each with the blanks in front of it; a % stays with its number."""
    return re.findall(r"\s*\S+(?: %\S*)?", text) or [text]


def parts_of_names(text: str) -> Pieces:
    """Return the words of a text, divided behind dots and slashes."""
    return [part for word in words(text) for part in re.findall(r"[^./]*[./]+(?=[^./])|.+", word)] or [text]


def _whole(text: str) -> Pieces:
    return [text]


def _anywhere(text: str) -> Pieces:
    return [piece for part in parts_of_names(text) for piece in chop_cells(part, _SHORTEST_NAME)]


@dataclass(frozen=True)
class _Column:
    header: str
    right: bool
    cells: Sequence[str]

    def width(self, divide: Callable[[str], Pieces]) -> int:
        """Return the least width where cells are divided so, and the header between words."""
        pieces = [*words(self.header), *(piece for cell in self.cells for piece in divide(cell))]
        return max(cell_len(piece.strip()) for piece in pieces)


@dataclass(eq=False)
class PlainTable:
    """A table of texts with a title above and a caption below; its cells bring no control character to the terminal.

    Columns whose name starts with ``>`` are aligned to the right and hold numbers.
    """

    title: str
    columns: Sequence[str]
    caption: str = ""
    rows: list[tuple[str, ...]] = field(default_factory=list)

    def add_row(self, *cells: str) -> None:
        """Add a row; cells that are missing at its end are empty."""
        self.rows.append((*map(printable, cells), *[""] * (len(self.columns) - len(cells))))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        """Yield the title, the table in a layout that fits, and the caption."""
        if self.title:
            yield Text(wrapped(printable(self.title), options.max_width), style="italic")
        yield from console.render(*self._laid_out(options))
        if self.caption:
            yield Text(wrapped(printable(self.caption), options.max_width), style="dim")

    def _laid_out(self, options: ConsoleOptions) -> tuple[Table, ConsoleOptions]:
        cells = list(zip(*self.rows, strict=True)) or [()] * len(self.columns)
        columns = [
            _Column(name.lstrip(">"), name.startswith(">"), column)
            for name, column in zip(self.columns, cells, strict=True)
        ]
        padding, names, numbers, widths = _layout(columns, options.max_width)
        table = Table(header_style="bold", padding=(0, padding))
        for column, width in zip(columns, widths, strict=True):
            table.add_column(
                wrapped(column.header, width), justify="right" if column.right else "left", width=width, no_wrap=True
            )
        divided = [numbers if column.right else names for column in columns]
        for row in self.rows:
            folded = (_lines(divide(cell), width) for divide, cell, width in zip(divided, row, widths, strict=True))
            table.add_row(*(Text("\n".join(lines)) for lines in folded))
        return table, options.update_width(max(options.max_width, _outer(widths, padding)))


def _layout(
    columns: Sequence[_Column], room: int
) -> tuple[int, Callable[[str], Pieces], Callable[[str], Pieces], list[int]]:
    """Return the padding, how names and numbers are divided, and the widths of the columns, in the first way that fits."""
    ways = [(1, parts_of_names, _whole), (0, parts_of_names, _whole), (0, parts_of_names, words), (0, _anywhere, words)]
    for padding, names, numbers in ways:
        least = [column.width(numbers if column.right else names) for column in columns]
        widths = [max(column.width(_whole), cell_len(column.header)) for column in columns]
        while _outer(widths, padding) > room and widths != least:
            widest = max((i for i in range(len(widths)) if widths[i] > least[i]), key=lambda i: widths[i])
            widths[widest] -= 1
        if _outer(widths, padding) <= room:
            break
    return padding, names, numbers, widths


def _outer(widths: Sequence[int], padding: int) -> int:
    return sum(widths) + len(widths) * (1 + 2 * padding) + 1


def _lines(pieces: Pieces, width: int) -> list[str]:
    """Join pieces to lines of at most ``width``, as far as the pieces are not longer."""
    lines = [pieces[0]]
    for piece in pieces[1:]:
        if cell_len(lines[-1] + piece) > width:
            lines.append(piece.lstrip())
        else:
            lines[-1] += piece
    return lines
