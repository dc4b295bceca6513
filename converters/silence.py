"""Silence what frameworks log while they convert."""

import io
import logging
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any


@contextmanager
def silenced(names: Iterable[str]) -> Iterator[None]:
    """Keep these loggers to critical messages; failures still raise."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def unprinted() -> Iterator[None]:
    """Drop what Python code prints to stderr. Warnings are still shown, and failures still raise."""
    shown = sys.stderr
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        show = warnings.showwarning

        def show_there(
            message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None
        ) -> None:
            show(message, category, filename, lineno, file or shown, line)

        warnings.showwarning = show_there
        yield
