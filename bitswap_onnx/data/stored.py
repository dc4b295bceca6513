"""Data as a file stores them: arrays with labels, and the error for a file that cannot be read."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.errors import BitswapError, DataError, one_line

Array = NDArray[Any]
Labels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class StoredArray:
    """Inputs (N, ...) in one array, in memory or mapped; labels (N,) or None; the layout if the file format fixes it.

    ``path``: the file, or as text the parameter that a caller gave.
    """

    name: str
    path: Path | str
    inputs: Array = field(repr=False)
    labels: Array | None = field(default=None, repr=False)
    layout: str | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the stored values."""
        return self.inputs.dtype

    def blocks(self, rows: NDArray[np.intp]) -> Iterator[tuple[str, Array]]:
        """Yield the path and the inputs of ``rows``, (n, ...)."""
        yield str(self.path), self.inputs[rows]


@contextmanager
def decoding_errors(path: Path, what: str) -> Iterator[None]:
    """Turn any error of a decoder into a DataError of one line."""
    try:
        yield
    except BitswapError:
        raise
    except Exception as error:
        raise DataError(f"{path}: expected {what}, but reading it failed: {one_line(error)}") from error


def mapped(path: Path) -> Array:
    """Return the array of an .npy file, mapped; raises DataError."""
    with decoding_errors(path, "an .npy file of plain numbers"):
        return np.asarray(np.lib.format.open_memmap(path, mode="r"))
