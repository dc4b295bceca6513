"""Silence what frameworks log while they convert."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


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
