"""Results as tables: pandas DataFrames, and what a notebook or a Python prompt shows of a result."""

import math
from collections.abc import Collection, Iterable
from html import escape
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bitswap_onnx.errors import MissingExtraError, printable

if TYPE_CHECKING:
    import pandas as pd

#: Rows that a notebook shows of a table, at most.
_SHOWN_ROWS = 12


class Tabular:
    """A result that has a table: ``frame`` is all of it; prompt and notebook show a line, and some rows.

    ``notebook_columns``: the columns that a notebook shows; none: all.
    """

    notebook_columns: ClassVar[tuple[str, ...]] = ()

    def headline(self) -> str:
        """Return one line: what ran, and its leading figure."""
        raise NotImplementedError

    def table_rows(self) -> Iterable[dict[str, Any]]:
        """Return the rows of the table, each by its columns."""
        raise NotImplementedError

    def frame(self) -> "pd.DataFrame":
        """Return the table as a pandas DataFrame; empty cells are NaN. Raises MissingExtraError without pandas."""
        return require_pandas().DataFrame(list(self.table_rows()))

    def shown_rows(self) -> Iterable[dict[str, Any]]:
        """Return the rows that a notebook shows."""
        return self.table_rows()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {printable(self.headline())}>"

    def _repr_html_(self) -> str:
        rows = list(islice(self.shown_rows(), _SHOWN_ROWS + 1))
        names = [
            name for name in (rows[0] if rows else ()) if not self.notebook_columns or name in self.notebook_columns
        ]
        head = "".join(f"<th>{_cell(name)}</th>" for name in names)
        body = "".join(
            f"<tr>{''.join(f'<td>{_cell(row[name])}</td>' for name in names)}</tr>" for row in rows[:_SHOWN_ROWS]
        )
        more = "<p>The first rows; <code>frame()</code> has all of them.</p>" if len(rows) > _SHOWN_ROWS else ""
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if rows else ""
        return f"<p>{_cell(self.headline())}</p>{table}{more}"


def percent(share: float | None) -> str:
    """Return a share as a percentage with up to four digits, a dash for None."""
    return "-" if share is None or math.isnan(share) else f"{100 * share:.4g} %"


def _cell(value: object) -> str:
    """Return a value as HTML text; names may hold any characters."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return escape(printable(f"{value:.4g}" if isinstance(value, float) else str(value)))


def read_frame(path: Path, whole: Collection[str], real: Collection[str]) -> "pd.DataFrame":
    """Return a CSV file as a DataFrame: columns of whole numbers (nullable), of real numbers, all others text.

    An empty cell is missing; other text, such as a layer that is called ``NA``, stays. Raises MissingExtraError without
    pandas.
    """
    pd = require_pandas()
    frame = pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""])
    for name in frame.columns:
        if name in whole:
            frame[name] = pd.to_numeric(frame[name]).astype("Int64")
        elif name in real:
            frame[name] = [math.nan if pd.isna(cell) else float(cell) for cell in frame[name]]
    return frame


def require_pandas() -> Any:
    """Return the module pandas; raises MissingExtraError where it is absent."""
    try:
        import pandas
    except ImportError:
        raise MissingExtraError("a DataFrame needs pandas: pip install 'bitswap-onnx[pandas]'") from None
    return pandas
