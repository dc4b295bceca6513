"""Files that appear whole or not at all, and folders named by the time."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import IO, Any

from bitswap_onnx.errors import RunError, one_line


@contextmanager
def replacing(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file (``mode`` ``w`` or ``wb``) that replaces ``path`` when the block ends without an exception.

    After an exception ``path`` is unchanged and the new file is removed. Raises RunError if writing fails.
    """
    unfinished = path.with_name(path.name + ".part")
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    try:
        with unfinished.open(mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        _remove(unfinished)
        if not path.parent.is_dir():
            raise RunError(f"{path}: cannot write: there is no folder {path.parent}; make it first") from None
        reason = error.strerror or one_line(error)
        raise RunError(f"{path}: cannot write: {reason}; free some space or choose another place") from None
    except BaseException:
        _remove(unfinished)
        raise


def check_output(path: Path, inputs: Iterable[Path]) -> None:
    """Raise RunError if ``path`` is a folder or no file name, or one of ``inputs``, which it would overwrite."""
    if not path.name or path.is_dir():
        raise RunError(f"{path}: expected the name of a file to write, found a folder")
    for source in inputs:
        if path.resolve() == source.resolve():
            raise RunError(f"{path}: would overwrite what it is made from; choose another output")


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)


def folder_of_now(parent: Path) -> Path:
    """Return a folder below ``parent`` that does not exist, named ``yymmdd_HHMMSS``, or ``yymmdd_HHMMSS-2`` and so on."""
    time = datetime.now().strftime("%y%m%d_%H%M%S")
    names = (time if number == 1 else f"{time}-{number}" for number in count(1))
    return next(parent / name for name in names if not (parent / name).exists())
