"""The inputs of a campaign: loaded, preprocessed for the model, read in batches of bounded memory, and hashed.

`load_dataset` resolves files, options and the model's input shape once, into a `Dataset`. Stored values are preprocessed
when a batch is read.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.data.images import StoredImages
from bitswap_onnx.data.open_shapes import settled_shape
from bitswap_onnx.data.preprocessing import Preprocessing, decoding_for, is_float, plan_pipeline, recipe_for
from bitswap_onnx.data.presets import PRESETS, Recipe
from bitswap_onnx.data.readers import Reader, open_data, with_labels
from bitswap_onnx.data.stored import Array, Labels, StoredArray
from bitswap_onnx.errors import DataError, Findings, RunError, amount

_CHUNK_BYTES = 1 << 26


@dataclass(frozen=True, eq=False)
class Dataset:
    """Inputs ready for the model, each of ``shape`` and ``dtype``, and labels (N,) or None, in a fixed order.

    ``name`` is for file names; ``source`` is a sentence that says where the inputs come from. ``classes``: the number of
    class folders that the labels count, None where they come from elsewhere.
    """

    name: str
    source: str
    labels: Labels | None
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    _count: int
    _read: Callable[[int, int], Array] = field(repr=False)
    classes: int | None = None

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"<Dataset {self.name}: {self.source}; each {self.shape}, {self.dtype}>"

    def batch(self, start: int, stop: int) -> Array:
        """Return inputs start to stop (excluded), (stop - start, *shape), C-contiguous; raises DataError."""
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"inputs {start} to {stop} of {len(self)}")
        return np.ascontiguousarray(self._read(start, stop))

    def content_hash(self) -> str:
        """Return the SHA-256 of dtype, shape, preprocessed inputs in order, and labels; reads every input."""
        return self._hash(lambda _: None)

    def save(self, path: Path) -> str:
        """Write all inputs to a .npy file, a chunk at a time; return `content_hash`; raises RunError."""
        # Plain writes: on a full disk they raise, where a store into a memory map would kill the process.
        descr = np.lib.format.dtype_to_descr(self.dtype)
        header = {"descr": descr, "fortran_order": False, "shape": (len(self), *self.shape)}
        try:
            with path.open("wb") as file:
                np.lib.format.write_array_header_1_0(file, header)
                return self._hash(file.write)
        except OSError as error:
            raise RunError(f"{path}: the inputs cannot be written ({error.strerror}); choose another `run`") from error

    def _hash(self, sink: Callable[[memoryview], object]) -> str:
        kind = "no labels" if self.labels is None else "labels"
        digest = hashlib.sha256(f"{self.dtype.name} {(len(self), *self.shape)} {kind}\n".encode())
        step = _chunk_length(self.dtype.itemsize * math.prod(self.shape))
        for start in range(0, len(self), step):
            chunk = self.batch(start, min(start + step, len(self))).reshape(-1).view(np.uint8).data
            digest.update(chunk)
            sink(chunk)
        if self.labels is not None:
            digest.update(self.labels.astype("<i8").tobytes())
        return digest.hexdigest()


def _chunk_length(bytes_each: int) -> int:
    return max(1, _CHUNK_BYTES // max(1, bytes_each))


def load_dataset(
    path: Path | str | StoredArray,
    *,
    input_shape: Sequence[int | None],
    dtype: np.dtype[Any],
    preprocessing: Preprocessing = Preprocessing(),
    labels: Path | str | None = None,
    limit: int | None = None,
    first: int | None = None,
    seed: int = 0,
    readers: Mapping[str, Reader] | None = None,
) -> Dataset:
    """Load the dataset at ``path`` for a model whose inputs, without the batch, are ``input_shape`` of ``dtype``.

    ``path`` may also be data in memory (`bitswap_onnx.data.in_memory.stored_in_memory`).

    None in ``input_shape`` is an open dimension: `Dataset.shape` has the size that the data give it. `open_data` lists the
    formats, ``readers`` adds some. ``labels``: a file of labels that replaces the dataset's own. ``limit``: the number of
    inputs to draw with ``seed``, kept in dataset order; ``first``: the number of first inputs to take. Either takes all
    inputs where there are fewer. Raises DataError where the data does not fit the model or a parameter is wrong,
    MissingExtraError where images need Pillow.
    """
    dtype, recipe = np.dtype(dtype), recipe_for(preprocessing)
    label_file = None if labels is None else Path(labels)
    if isinstance(path, StoredArray):
        stored: StoredArray | StoredImages = path if label_file is None else with_labels(path, label_file)
    else:
        stored = open_data(Path(path), label_file, decoding_for(recipe, input_shape), readers)
    if isinstance(stored, StoredArray) and stored.inputs.ndim == len(input_shape) == 3 and 1 in input_shape[::2]:
        stored = replace(stored, inputs=stored.inputs[..., None], layout="nhwc")  # gray images, as in Keras's mnist.npz
    if preprocessing.preset is None and stored.dtype != np.uint8:
        recipe = replace(recipe, divisor=1.0)
    rows, selection = _select(len(stored), limit, first, seed)
    findings = Findings()
    with findings.check():
        shape = settled_shape(stored, input_shape, recipe, preprocessing.data_layout)
    with findings.check():
        _check_kinds(stored, recipe, dtype)
    findings.raise_all()
    _check_values(stored, rows, dtype, preprocessing.preset)
    pipeline = plan_pipeline(stored, rows, shape, dtype, recipe, preprocessing.data_layout)

    def read(start: int, stop: int) -> Array:
        blocks = [pipeline(where, block) for where, block in stored.blocks(rows[start:stop])]
        return np.concatenate(blocks) if blocks else np.empty((0, *shape), dtype)

    y = None if stored.labels is None else stored.labels[rows].astype(np.int64)
    steps = [f"{option} {value}" for option, value in vars(preprocessing).items() if value is not None]
    turned = isinstance(stored, StoredArray) and pipeline.order != tuple(range(len(pipeline.order)))
    steps += ["axes in the order of the model"] if turned else []
    place = "in memory" if isinstance(stored.path, str) else f"of {stored.path}"
    source = ", ".join([f"{selection} {place}", *steps, "no labels" if y is None else "with labels"])
    classes = stored.classes if isinstance(stored, StoredImages) else None
    return Dataset(stored.name, source, y, shape, dtype, len(rows), read, classes)


def _select(count: int, limit: int | None, first: int | None, seed: int) -> tuple[NDArray[np.intp], str]:
    """Return the rows to use, ascending, and a phrase that describes them; raises DataError."""
    if limit is not None and first is not None:
        raise DataError(f"`limit` {limit} and `first` {first}: give one of them")
    asked = limit if limit is not None else first
    if asked is not None and not (isinstance(asked, int | np.integer) and asked >= 1):
        raise DataError(
            f"`{'first' if limit is None else 'limit'}`: expected a whole number from 1 on, found {asked!r}"
        )
    if asked is None or asked >= count:
        return np.arange(count), f"all {count} inputs" if count > 1 else "the only input"
    if first is not None:
        return np.arange(first), f"the first {first} of {count} inputs"
    rows = np.random.default_rng(seed).choice(count, size=asked, replace=False)
    return np.sort(rows), f"{amount(asked, 'input')}, drawn with seed {seed} from the {count}"


def _check_kinds(stored: StoredArray | StoredImages, recipe: Recipe, dtype: np.dtype[Any]) -> None:
    """Refuse kinds of data that fit the model with no values at all: unscaled pixels, floats for integers."""
    floats = stored.dtype.kind == "f" or recipe.mean is not None or recipe.size is not None
    if floats and not is_float(dtype):
        raise DataError(f"{stored.path}: the model takes {dtype}; expected integers, no preset, mean, std or resize")
    if stored.dtype == np.uint8 and recipe.mean is None and is_float(dtype):
        ways = f"`preset` ({', '.join(PRESETS)}) or `mean` and `std`"
        raise DataError(f"{stored.path}: uint8 for a model that takes {dtype}; say how to scale it: {ways}")


def _check_values(
    stored: StoredArray | StoredImages, rows: NDArray[np.intp], dtype: np.dtype[Any], preset: str | None
) -> None:
    """Refuse NaN, Inf, pixels of another scale than the preset's, and integers that the model's dtype cannot hold."""
    if stored.dtype == np.uint8 and is_float(dtype):
        return
    low, high = (0.0, 255.0) if isinstance(stored, StoredImages) else _value_range(stored, rows)
    where = f"{stored.path}: values from {low} to {high}"
    if preset is not None and (low < 0 or high > 255 or (stored.dtype.kind == "f" and high <= 1)):
        raise DataError(f"{where}, and `preset` {preset} expects pixels 0-255; give `mean` and `std` instead")
    if not is_float(dtype):
        least, most = (0, 1) if dtype == np.bool_ else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        if low < least or high > most:
            raise DataError(f"{where}, and the model takes {dtype}, {least} to {most}; store x in that range")


def _value_range(stored: StoredArray, rows: NDArray[np.intp]) -> tuple[float, float]:
    low, high = math.inf, -math.inf
    step = _chunk_length(stored.inputs[0].nbytes)
    for chunk in (rows[start : start + step] for start in range(0, len(rows), step)):
        values = stored.inputs[chunk].reshape(len(chunk), -1)
        bad = ~np.isfinite(values).all(axis=1)
        if bad.any():
            raise DataError(f"{stored.path}: input {chunk[bad.argmax()]} (from 0) has a NaN or Inf; leave it out")
        low, high = min(low, values.min().item()), max(high, values.max().item())
    return low, high
