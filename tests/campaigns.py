"""Campaigns in tests: keyword arguments of a run, and rows of its store."""

import sqlite3
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any

from bitswap_onnx.campaign.options import RunOptions

_NAMES = {field.name for field in fields(RunOptions)}


def run_options(arguments: dict[str, Any], **defaults: Any) -> RunOptions:
    """Take the options of a run out of ``arguments``; ``defaults`` hold where there are none."""
    given = {name: arguments.pop(name) for name in list(arguments) if name in _NAMES}
    return RunOptions(**{**defaults, **given})


def rows_of_store(run: Path, query: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the rows of a query to a run's store, without its own code."""
    with closing(sqlite3.connect(run / "campaign.sqlite")) as db:
        return db.execute(query, values).fetchall()
