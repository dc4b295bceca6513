"""Readers of dataset files: arrays (.npz, .npy), CIFAR's own files, folders of images, and label files.

They return the stored values unchanged; `bitswap_onnx.data.dataset` fits them to a model. No file can run code: numpy
loads without pickles, and CIFAR's pickled batches go through an unpickler that builds plain data only. A file that cannot
be read raises a DataError of one line that starts with the path.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from bitswap_onnx.data.cifar import find_test_batch, read_cifar_archive, read_cifar_file
from bitswap_onnx.data.image_folders import open_images
from bitswap_onnx.data.images import Decoding, StoredImages
from bitswap_onnx.data.labels import as_labels, labels_from_file
from bitswap_onnx.data.stored import StoredArray, decoding_errors, mapped
from bitswap_onnx.errors import DataError

Reader = Callable[[Path], StoredArray]


def open_data(
    path: Path, labels: Path | None, decoding: Decoding, readers: Mapping[str, Reader] | None = None
) -> StoredArray | StoredImages:
    """Open the dataset at ``path``; ``labels`` names a file that replaces the labels found there; raises DataError.

    ``readers``: suffix → reader of further kinds of files.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; {_expected(readers)}")
    if path.is_dir():
        batch = find_test_batch(path)
        if batch is None:
            return open_images(path, labels, decoding)
        path = batch
    known = {**_READERS, **(readers or {})}
    if path.suffix not in known:
        raise DataError(f"{path}: unknown kind of dataset; {_expected(readers)}")
    stored = known[path.suffix](path)
    if stored.dtype.kind not in "biuf":
        raise DataError(f"{path}: x has dtype {stored.dtype}, expected integers or floats; save x as such")
    if stored.inputs.ndim < 2 or stored.inputs.size == 0:
        raise DataError(f"{path}: x has shape {stored.inputs.shape}, expected at least one input: (N, ...)")
    if labels is not None:
        return with_labels(stored, labels)
    return stored if stored.labels is None else replace(stored, labels=as_labels(stored.labels, len(stored), str(path)))


def with_labels(stored: StoredArray, labels: Path) -> StoredArray:
    """Return the same inputs with the labels of a file; raises DataError."""
    return replace(stored, labels=labels_from_file(labels, len(stored)))


def _expected(readers: Mapping[str, Reader] | None) -> str:
    more = "".join(f", a {suffix} file" for suffix in readers or ())
    return (
        f"expected a .npz or .npy file{more}, a CIFAR batch, its folder or its .tar.gz (python or binary version), or a "
        "folder of images"
    )


#: Names of inputs and labels in an .npz, in the order in which they are looked for.
_NAMES = (("x", "y"), ("x_test", "y_test"), ("images", "labels"), ("data", "targets"), ("inputs", "labels"))


def _read_npz(path: Path) -> StoredArray:
    with (
        decoding_errors(path, "an .npz of numbers"),
        path.open("rb") as file,
        np.load(file, allow_pickle=False) as found,
    ):
        x, y = next((names for names in _NAMES if names[0] in found), ("", ""))
        if not x:
            listed = ", ".join(found)[:80] or "nothing"
            raise DataError(f"{path}: expected arrays x and y, found {listed}; save with x=, y=")
        arrays = {name: found[name] for name in (x, y) if name in found}
        for name, array in arrays.items():
            if not isinstance(array, np.ndarray):
                raise DataError(f"{path}: expected an array {name}, found {len(array)} bytes of something else")
        return StoredArray(path.stem, path, arrays[x], arrays.get(y))


_READERS: dict[str, Reader] = {
    ".npz": _read_npz,
    ".npy": lambda path: StoredArray(path.stem, path, mapped(path)),
    ".bin": read_cifar_file,
    "": read_cifar_file,  # test_batch, data_batch_1, test, train
    **dict.fromkeys((".gz", ".tgz", ".tar"), read_cifar_archive),
}
