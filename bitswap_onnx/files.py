"""Files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from bitswap_onnx.errors import RunError


@contextmanager
def replacing(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file (``mode`` ``w`` or ``wb``) that takes the place of ``path`` when the block ends well.

    Otherwise ``path`` stays as it was and nothing is left behind. Raises RunError where nothing can be written.
    """
    part = path.with_name(path.name + ".part")
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    try:
        with part.open(mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise RunError(f"{path}: cannot write: {error.strerror}; free some space or choose another place") from None
    except BaseException:
        part.unlink(missing_ok=True)
        raise
