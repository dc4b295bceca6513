"""Run a campaign in this process and end it, as kill -9 would, at its K-th write to disk.

Usage: python kill_at.py MODEL FAULTS|GOAL RUN K|every [N]. Points are numbered from 1: before and after each commit, each
rename, each folder made or removed. For a GOAL, like critical+-1%@99%, faults are drawn until it is reached. With N, each
injection runs over a batch of N inputs of its own. Exits with 9 where it was ended, 0 where the campaign finished first.

With ``every`` instead of K, one campaign for each point K = 1, 2, ... runs in the folder RUN<K>, in a process of its own,
until one of them finishes. Exits with 0.
"""

import multiprocessing
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.until.drawn_list import Until
from bitswap_onnx.until.goal import parse_goal
from bitswap_onnx.until.run import run_until

_left = 0


def _point() -> None:
    global _left
    _left -= 1
    if _left == 0:
        os._exit(9)


def _around(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    _point()
    result = call(*args, **options)
    _point()
    return result


class _Connection(sqlite3.Connection):
    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        if sql == "COMMIT":
            _point()
            cursor = super().execute(sql, *args)
            _point()
            return cursor
        return super().execute(sql, *args)


def campaign(run: Path, point: int) -> None:
    """Run the campaign in ``run`` up to ``point``."""
    global _left
    _left = point
    for module, name in ((os, "mkdir"), (os, "replace"), (shutil, "rmtree")):
        setattr(module, name, partial(_around, getattr(module, name)))
    connect = sqlite3.connect
    sqlite3.connect = partial(connect, factory=_Connection)  # type: ignore[assignment]
    own = int(sys.argv[5]) if len(sys.argv) > 5 else None
    settings = Settings(first=8, batch_size=own or 8)
    model, faults = Path(sys.argv[1]), sys.argv[2]
    if "@" in faults:
        until = Until(goal=parse_goal(faults))
        run_until(
            model,
            until,
            settings=settings,
            options=RunOptions(run=run, resume=True, workers=1, inputs_per_injection=own),
        )
    else:
        run_campaign(
            prepare(model, settings),
            faults,
            options=RunOptions(run=run, resume=True, workers=1, inputs_per_injection=own),
        )


def campaigns(run: str) -> None:
    """Run a campaign for every point; where processes can be forked, they find the libraries loaded."""
    multiprocessing.set_start_method("spawn" if sys.platform == "win32" else "fork")
    point, exitcode = 0, 9
    while exitcode == 9:
        point += 1
        process = multiprocessing.Process(target=campaign, args=(Path(f"{run}{point}"), point))
        process.start()
        process.join()
        exitcode = process.exitcode or 0
    sys.exit(exitcode)


def main() -> None:
    if sys.argv[4] == "every":
        campaigns(sys.argv[3])
    else:
        campaign(Path(sys.argv[3]), int(sys.argv[4]))


if __name__ == "__main__":
    main()
