"""CIFAR's own files: binary and python batches, their folders and their archives.

The python batches are pickles. They go through an unpickler that builds plain data only.
"""

import pickle
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.data.labels import as_labels
from bitswap_onnx.data.stored import Array, StoredArray, decoding_errors
from bitswap_onnx.errors import DataError

TEST_BATCHES = ("test_batch", "test_batch.bin", "test", "test.bin")
_FOLDERS = ("cifar-10-batches-py", "cifar-10-batches-bin", "cifar-100-python", "cifar-100-binary")
_PIXELS = 3 * 32 * 32

#: Bytes of a test batch, at most, and of what lies before it in an archive.
_MOST_BYTES, _MOST_BEFORE = 1 << 26, 1 << 29


def find_test_batch(folder: Path) -> Path | None:
    """Return the test batch in a folder of CIFAR, or in the one such folder within it; raises DataError for several."""
    found = [folder / name for name in TEST_BATCHES if (folder / name).is_file()]
    if found:
        return found[0]
    inner = [folder / name for name in _FOLDERS if (folder / name).is_dir()]
    if len(inner) > 1:
        raise DataError(
            f"{folder}: expected one CIFAR, found {', '.join(path.name for path in inner)}; give one of them"
        )
    return find_test_batch(inner[0]) if inner else None


def read_cifar_file(path: Path) -> StoredArray:
    """Return what a batch holds, binary or pickled; raises DataError."""
    with decoding_errors(path, "a CIFAR batch"), path.open("rb") as file:
        return _read_batch(file, path)


def read_cifar_archive(path: Path) -> StoredArray:
    """Return the test batch in cifar-10-python.tar.gz or another of CIFAR's archives; raises DataError."""
    with decoding_errors(path, "an archive of CIFAR"), tarfile.open(path, "r|*") as archive:
        for member in _before_limit(archive):
            name = member.name.rpartition("/")[2]
            if member.isfile() and name in TEST_BATCHES:
                if member.size > _MOST_BYTES:
                    raise DataError(
                        f"{path}: {member.name} has {member.size:,} bytes, a test batch of CIFAR has 31 million"
                    )
                file = archive.extractfile(member)
                assert file is not None
                return _read_batch(file, path / member.name)
    raise DataError(
        f"{path}: expected an archive with CIFAR's test batch ({', '.join(TEST_BATCHES)}), found none; unpack other "
        "data and give their folder"
    )


def _before_limit(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members of an archive, as long as those before are no larger than CIFAR's."""
    size = 0
    for member in archive:
        yield member
        size += member.size
        if size > _MOST_BEFORE:
            return


def _read_batch(file: IO[bytes], path: Path) -> StoredArray:
    return _read_binary(file, path) if path.suffix == ".bin" else _read_python(file, path)


def _cifar(path: Path, pixels: NDArray[np.uint8], labels: Sequence[int] | Array, classes: int) -> StoredArray:
    y = as_labels(np.asarray(labels), len(pixels), str(path))
    if y.max(initial=0) >= classes:
        raise DataError(f"{path}: label {y.max()} in what should be a CIFAR-{classes} batch; is it one?")
    return StoredArray(f"cifar{classes}", path, pixels.reshape(-1, 3, 32, 32), y, "nchw")


def _read_binary(file: IO[bytes], path: Path) -> StoredArray:
    """Rows of (label, pixels), CIFAR-10, or (coarse, fine label, pixels), CIFAR-100; cs.toronto.edu/~kriz/cifar.html."""
    data = np.frombuffer(file.read(), np.uint8)
    fitting = [labels for labels in (1, 2) if data.size % (labels + _PIXELS) == 0]
    if not fitting or data.size == 0:
        raise DataError(f"{path}: {data.size} bytes, expected CIFAR rows of 3073 or 3074 bytes; is it complete?")
    labels = fitting[-1 if path.name in ("test.bin", "train.bin") else 0]
    rows = data.reshape(-1, labels + _PIXELS)
    return _cifar(path, rows[:, labels:], rows[:, labels - 1], 10 if labels == 1 else 100)


def _read_python(file: IO[bytes], path: Path) -> StoredArray:
    with decoding_errors(path, "a CIFAR python batch"):
        batch = _CifarUnpickler(file, encoding="bytes").load()
        labels, classes = (b"fine_labels", 100) if b"fine_labels" in batch else (b"labels", 10)
        return _cifar(path, _pixels(batch[b"data"]), batch[labels], classes)


class _Pickled:
    """Stands in for numpy's arrays and dtypes, so that no byte of the file reaches numpy's unsafe state setters."""

    state: Any = ()

    def __init__(self, *args: object) -> None:
        self.args = args

    def __setstate__(self, state: object) -> None:
        self.state = state


def _pixels(array: _Pickled) -> NDArray[np.uint8]:
    _, shape, dtype, fortran_order, data = array.state
    if dtype.args[0] not in ("u1", b"u1") or fortran_order:
        raise ValueError("pixels that are not uint8 in C order")
    return np.frombuffer(data, np.uint8).reshape(shape[0], _PIXELS)


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"refused: text encoding {encoding}")
    return text.encode(encoding)


class _CifarUnpickler(pickle.Unpickler):
    """Builds plain data and the stand-ins above; refuses every other name, so that no code of the file can run."""

    allowed: ClassVar[dict[tuple[str, str], Callable[..., object]]] = {
        ("numpy.core.multiarray", "_reconstruct"): _Pickled,
        ("numpy._core.multiarray", "_reconstruct"): _Pickled,
        ("numpy", "ndarray"): _Pickled,
        ("numpy", "dtype"): _Pickled,
        ("_codecs", "encode"): _latin1,
    }

    def find_class(self, module: str, name: str) -> Callable[..., object]:
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR file needs (refused)")
        return self.allowed[module, name]
