"""Readers of dataset files: arrays (.npz, .npy), CIFAR's own files, folders of images, and label files.

They return the stored values unchanged; `bitswap_onnx.data.dataset` fits them to a model. No file can run code: numpy
loads without pickles, and CIFAR's pickled batches go through an unpickler that builds plain data only. A file that cannot
be read raises a DataError of one line that starts with the path.
"""

import pickle
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.errors import BitswapError, DataError, MissingExtraError, one_line

Array = NDArray[Any]
Labels = NDArray[np.int64]

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".webp"})
EXPECTED = "expected a .npz or .npy file, a CIFAR batch or its folder (python or binary version), or a folder of images"


@dataclass(frozen=True)
class Decoding:
    """How an image file becomes pixels: Pillow's mode, then torchvision's Resize(shorter_side) and CenterCrop(crop)."""

    mode: str = "RGB"
    shorter_side: int | None = None
    crop: tuple[int, int] = (0, 0)


@dataclass(frozen=True, eq=False)
class StoredArray:
    """Inputs (N, ...) in one array, in memory or mapped; labels (N,) or None; the layout if the file format fixes it."""

    name: str
    path: Path
    inputs: Array
    labels: Array | None = None
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


@dataclass(frozen=True, eq=False)
class StoredImages:
    """Image files, each decoded to (height, width, channels) uint8 when it is read; labels (N,) or None."""

    name: str
    path: Path
    files: tuple[Path, ...]
    labels: Array | None
    decoding: Decoding
    layout: ClassVar[str] = "nhwc"
    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self.files)

    def blocks(self, rows: NDArray[np.intp]) -> Iterator[tuple[str, Array]]:
        """Yield the file and the pixels, (1, height, width, channels), of each of ``rows``."""
        for row in rows:
            yield str(self.files[row]), read_image(self.files[row], self.decoding)[None]


def open_data(path: Path, labels: Path | None, decoding: Decoding) -> StoredArray | StoredImages:
    """Open the dataset at ``path``; ``labels`` names a file that replaces the labels found there; raises DataError."""
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; {EXPECTED}")
    if path.is_dir():
        batches = [path / name for name in _CIFAR_TEST_BATCHES if (path / name).is_file()]
        if not batches:
            return _open_images(path, labels, decoding)
        path = batches[0]
    if path.suffix not in _READERS:
        raise DataError(f"{path}: unknown kind of dataset; {EXPECTED}")
    stored = _READERS[path.suffix](path)
    if stored.dtype.kind not in "biuf":
        raise DataError(f"{path}: x has dtype {stored.dtype}, expected integers or floats; save x as such")
    if stored.inputs.ndim < 2 or stored.inputs.size == 0:
        raise DataError(f"{path}: x has shape {stored.inputs.shape}, expected at least one input: (N, ...)")
    if labels is not None:
        return replace(stored, labels=_labels_from_file(labels, len(stored)))
    return stored if stored.labels is None else replace(stored, labels=as_labels(stored.labels, len(stored), str(path)))


def as_labels(y: Array, count: int, where: str) -> Labels:
    """Return labels (N,), (N, 1) or one-hot (N, K) as int64 (N,) of at least 0, N being ``count``; raises DataError."""
    if y.dtype.kind not in "biuf" or y.ndim not in (1, 2) or 0 in y.shape[1:]:
        raise DataError(f"{where}: labels are {y.dtype} of shape {y.shape}, expected integers (N,) or one-hot (N, K)")
    if len(y) != count:
        raise DataError(f"{where}: {len(y)} labels for {count} inputs; expected one label per input, in the same order")
    if y.ndim == 2 and y.shape[1] > 1:
        hot = y == 1
        wrong = (hot.sum(axis=1) != 1) | ((y != 0) & ~hot).any(axis=1)
        values, kind = hot.argmax(axis=1), "a one-hot row"
    else:
        with np.errstate(invalid="ignore"):
            values, kind = y.reshape(count).astype(np.int64), "an integer of at least 0"
        wrong = (values != y.reshape(count)) | (values < 0)
    if wrong.any():
        raise DataError(f"{where}: label {wrong.argmax()} (counted from 0) is not {kind}; correct it")
    return np.asarray(values, np.int64)


def read_image(path: Path, decoding: Decoding) -> NDArray[np.uint8]:
    """Decode a file to (height, width, channels); any resize is Pillow's bilinear, antialiased, as in torchvision."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError(f"{path}: reading images needs Pillow: pip install 'bitswap-onnx[images]'") from error
    with _reading(path, "an image"), Image.open(path) as file:
        if file.mode.startswith(("I", "F")):
            raise DataError(f"{path}: mode {file.mode} has over 8 bits per channel, expected 8; save it as 8-bit RGB")
        image = file.convert(decoding.mode)
        if decoding.shorter_side is not None:
            size, (top, left) = centre_crop((image.height, image.width), decoding.shorter_side, decoding.crop)
            image = image.resize(size[::-1], Image.Resampling.BILINEAR)
            image = image.crop((left, top, left + decoding.crop[1], top + decoding.crop[0]))
        return np.asarray(image, np.uint8).reshape(image.height, image.width, -1)


def centre_crop(found: tuple[int, int], side: int, crop: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the size with its shorter side made ``side``, and (top, left) of ``crop`` in it, rounded as in torchvision."""
    longer = int(side * max(found) / min(found))
    size = (side, longer) if found[0] <= found[1] else (longer, side)
    return size, (round((size[0] - crop[0]) / 2.0), round((size[1] - crop[1]) / 2.0))


@contextmanager
def _reading(path: Path, what: str) -> Iterator[None]:
    """Turn any error of a decoder into a DataError of one line."""
    try:
        yield
    except BitswapError:
        raise
    except Exception as error:
        raise DataError(f"{path}: expected {what}, but reading it failed: {one_line(error)}") from error


def _read_npz(path: Path) -> StoredArray:
    with _reading(path, "an .npz of numbers"), path.open("rb") as file, np.load(file, allow_pickle=False) as found:
        if "x" not in found:
            names = ", ".join(found)[:80] or "nothing"
            raise DataError(f"{path}: expected arrays x and y, found {names}; save with x=, y=")
        arrays = {name: found[name] for name in ("x", "y") if name in found}
        for name, array in arrays.items():
            if not isinstance(array, np.ndarray):
                raise DataError(f"{path}: expected an array {name}, found {len(array)} bytes of something else")
        return StoredArray(path.stem, path, arrays["x"], arrays.get("y"))


def _mapped(path: Path) -> Array:
    with _reading(path, "an .npy file of plain numbers"):
        return np.asarray(np.lib.format.open_memmap(path, mode="r"))


_CIFAR_TEST_BATCHES = ("test_batch", "test_batch.bin", "test", "test.bin")
_CIFAR_PIXELS = 3 * 32 * 32


def _cifar(path: Path, pixels: NDArray[np.uint8], labels: Sequence[int] | Array, classes: int) -> StoredArray:
    y = as_labels(np.asarray(labels), len(pixels), str(path))
    if y.max(initial=0) >= classes:
        raise DataError(f"{path}: label {y.max()} in what should be a CIFAR-{classes} batch; is it one?")
    return StoredArray(f"cifar{classes}", path, pixels.reshape(-1, 3, 32, 32), y, "nchw")


def _read_cifar_binary(path: Path) -> StoredArray:
    """Rows of (label, pixels), CIFAR-10, or (coarse, fine label, pixels), CIFAR-100; cs.toronto.edu/~kriz/cifar.html."""
    with _reading(path, "a CIFAR binary batch"):
        data = np.fromfile(path, np.uint8)
    fitting = [labels for labels in (1, 2) if data.size % (labels + _CIFAR_PIXELS) == 0]
    if not fitting or data.size == 0:
        raise DataError(f"{path}: {data.size} bytes, expected CIFAR rows of 3073 or 3074 bytes; is it complete?")
    labels = fitting[-1 if path.name in ("test.bin", "train.bin") else 0]
    rows = data.reshape(-1, labels + _CIFAR_PIXELS)
    return _cifar(path, rows[:, labels:], rows[:, labels - 1], 10 if labels == 1 else 100)


def _read_cifar_python(path: Path) -> StoredArray:
    with _reading(path, "a CIFAR python batch"), path.open("rb") as file:
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
    return np.frombuffer(data, np.uint8).reshape(shape[0], _CIFAR_PIXELS)


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


_READERS: dict[str, Callable[[Path], StoredArray]] = {
    ".npz": _read_npz,
    ".npy": lambda path: StoredArray(path.stem, path, _mapped(path)),
    ".bin": _read_cifar_binary,
    "": _read_cifar_python,  # test_batch, data_batch_1, test, train
}


def _open_images(path: Path, labels: Path | None, decoding: Decoding) -> StoredImages:
    """Class folders (sorted names → 0, 1, ...), or a flat folder with the labels given or beside the images."""
    if (path / "val_set").is_dir() and (path / "validation_label.txt").is_file():  # as BitSwapDetection keeps ImageNet
        path = path / "val_set"
    with _reading(path, "a folder of images"):
        entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
        flat = [entry for entry in entries if _is_image(entry)]
        classes = [sorted(filter(_is_image, folder.rglob("*"))) for folder in entries if folder.is_dir()]
    files = flat or [file for files in classes for file in files]
    if not files or (flat and any(classes)):
        found = "both images and folders of images" if files else "no images"
        raise DataError(f"{path}: {found}; expected one folder per class, or only images and a labels file")
    y = None if flat else np.repeat(np.arange(len(classes)), [len(members) for members in classes])
    beside = [path / "labels.txt", path / "labels.csv", path.parent / "validation_label.txt"]
    if labels is None and flat:
        labels = next((file for file in beside[: 3 if path.name == "val_set" else 2] if file.is_file()), None)
    if labels is not None:
        y = _labels_from_file(labels, len(files), [file.relative_to(path).as_posix() for file in files])
    return StoredImages(path.resolve().name, path, tuple(files), y, decoding)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


_LABEL_ROW = re.compile(r"(?:(?P<name>.+?)(?:\s*,\s*|\s+))?(?P<label>[+-]?[0-9]{1,18})")


def _labels_from_file(path: Path, count: int, names: Sequence[str] = ()) -> Labels:
    """Read labels: .npy, or text with one integer per line, or with rows that name the files ``names`` (any order)."""
    if path.suffix == ".npy":
        return as_labels(_mapped(path), count, str(path))
    with _reading(path, "a text file of labels"):
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    rows: list[tuple[str | None, int]] = []
    for number, line in enumerate(map(str.strip, lines), 1):
        if row := _LABEL_ROW.fullmatch(line):
            rows.append((row["name"], int(row["label"])))
        elif line and (number > 1 or line.lower() != "filename,label"):
            raise DataError(f"{path}:{number}: expected an integer, or a file name and an integer, found {line[:80]!r}")
    named = {name: label for name, label in rows if name is not None}
    if named:
        odd = set(named) ^ set(names)
        if odd or len(named) < len(rows):
            what = min(odd)[:200] if odd else "a name given twice or left out"
            raise DataError(f"{path}: {len(rows)} rows, expected one for each of {len(names)} images; found {what}")
        rows = [(name, named[name]) for name in names]
    return as_labels(np.array([label for _, label in rows]), count, str(path))
