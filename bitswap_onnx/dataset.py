"""The inputs of a campaign: loaded, preprocessed to what the model takes, in batches of bounded memory, and hashed.

`load_dataset` resolves files, options and the model's input shape once, into a `Dataset`. Stored values stay as they
are until a batch is asked for.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.data_files import (
    Array,
    Decoding,
    Labels,
    StoredArray,
    StoredImages,
    centre_crop,
    open_data,
)
from bitswap_onnx.errors import DataError, RunError

_CHUNK_BYTES = 1 << 26
_AXES = {"nchw": (0, 1, 2), "nhwc": (2, 0, 1)}  # where one input has its channels, height and width
_PAIRS = [(data, model) for data in _AXES for model in _AXES]


@dataclass(frozen=True)
class _Recipe:
    """Resize to ``size`` (by the shorter side and a centre crop if that is set), then (x / divisor - mean) / std."""

    mean: tuple[float, ...] | None = None  # None: values stay as they are
    std: tuple[float, ...] = (1.0,)
    divisor: float = 255.0
    bgr: bool = False
    size: tuple[int, int] | Literal["model"] | None = None
    shorter_side: int | None = None

    @property
    def channels(self) -> int:
        """How many channels mean and std are for; 1: any number."""
        return max(len(self.mean or (0.0,)), len(self.std))


PRESETS = {
    "cifar10": _Recipe((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": _Recipe(
        (0.5070751592371323, 0.48654887331495095, 0.4409178433670343),
        (0.2673342858792401, 0.2564384629170883, 0.27615047132568404),
    ),
    "gtsrb": _Recipe((0.3403, 0.3121, 0.3214), (0.2724, 0.2608, 0.2669), size=(50, 50)),
    "imagenet-torch": _Recipe((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), size=(224, 224), shorter_side=256),
    "imagenet-tf": _Recipe((1.0, 1.0, 1.0), divisor=127.5, size="model"),
    "imagenet-caffe": _Recipe((103.939, 116.779, 123.68), divisor=1.0, bgr=True, size="model"),
    "imagenet-identity": _Recipe((0.0, 0.0, 0.0), divisor=1.0, size="model"),
}


@dataclass(frozen=True)
class Preprocessing:
    """What the user asked for; raises DataError where that contradicts itself.

    ``preset``: a name in `PRESETS`, for RGB pixels 0-255. ``mean``, ``std``: (x - mean) / std, with one value for all
    channels or one each, on the stored values, or on x / 255 where uint8 is stored. ``resize``: (height, width),
    bilinear, in place of what the preset does to the size. ``data_layout``: nchw or nhwc, that of the stored data.

    imagenet-torch resizes image files as torchvision does (Pillow, antialiased), arrays with `resize_bilinear`, and
    takes arrays of 224 x 224 as cropped already. Everything else resizes with `resize_bilinear`.
    """

    preset: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: tuple[int, int] | None = None
    data_layout: str | None = None

    def __post_init__(self) -> None:
        mean, std = self.mean or (0.0,), self.std or (1.0,)
        if self.preset is not None and self.preset not in PRESETS:
            raise DataError(f"--preset {self.preset}: no such preset; expected one of {', '.join(PRESETS)}")
        if self.preset is not None and (self.mean or self.std):
            raise DataError(f"--preset {self.preset} sets mean and std already; give the preset or --mean and --std")
        if len(mean) != len(std) and 1 not in (len(mean), len(std)):
            raise DataError(f"--mean has {len(mean)} values and --std {len(std)}; expected as many, or one for all")
        if not np.isfinite([*mean, *std]).all() or min(std) <= 0:
            raise DataError(f"--mean {mean} --std {std}: expected finite numbers, and a std above 0")
        if self.resize is not None and min(self.resize) < 1:
            raise DataError(f"--resize {self.resize[0]},{self.resize[1]}: expected a height and a width of at least 1")
        if self.data_layout not in (None, *_AXES):
            raise DataError(f"--data-layout {self.data_layout}: expected nchw or nhwc")


def _recipe(asked: Preprocessing) -> _Recipe:
    if asked.preset is None:
        mean = asked.mean or ((0.0,) if asked.std else None)
        return _Recipe(mean, asked.std or (1.0,), size=asked.resize)
    preset = PRESETS[asked.preset]
    return preset if asked.resize is None else replace(preset, size=asked.resize, shorter_side=None)


def resize_bilinear(x: NDArray[np.float32], size: tuple[int, int], axes: tuple[int, int]) -> NDArray[np.float32]:
    """Return ``x`` with its height and width, at ``axes``, made ``size``: half-pixel centres, no antialiasing.

    The arithmetic of tf.image.resize, in its order: along the width, then along the height, all in float32.
    """
    return _interpolate(_interpolate(x, axes[1], size[1]), axes[0], size[0])


def _interpolate(x: NDArray[np.float32], axis: int, size: int) -> NDArray[np.float32]:
    last, half = x.shape[axis] - 1, np.float32(0.5)
    at = (np.arange(size, dtype=np.float32) + half) * (np.float32(last + 1) / np.float32(size)) - half
    low = np.floor(at).astype(np.intp)
    weight = (at - np.floor(at)).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    below, above = x.take(np.maximum(low, 0), axis), x.take(np.minimum(low + 1, last), axis)
    return np.asarray(below + (above - below) * weight)


@dataclass(frozen=True)
class _Pipeline:
    """Blocks of stored inputs → inputs of ``shape``, ``dtype``; ``order`` transposes a block to the model's layout."""

    recipe: _Recipe
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: tuple[int, ...]
    axes: tuple[int, int, int] | None  # channels, height and width in a batch as the model takes it, if images

    def __call__(self, where: str, block: Array) -> Array:
        with np.errstate(over="ignore", invalid="ignore"):
            values = self._compute(where, block.transpose(self.order))
        if _is_float(self.dtype) and not np.isfinite(values).all():
            raise DataError(f"{where}: values too large for {self.dtype}, which the model takes; scale them")
        return values

    def _compute(self, where: str, values: Array) -> Array:
        if self.axes is not None and self.recipe.size is not None:
            values = self._resize(values, self.axes[1:])
        if values.shape[1:] != self.shape:
            raise DataError(f"{where}: shape {values.shape[1:]}, the model takes {self.shape}; try --resize")
        if self.recipe.mean is not None:
            values = self._scale(values.astype(np.float32), self.recipe.mean)
        return values.astype(self.dtype, copy=False)

    def _resize(self, values: Array, axes: tuple[int, int]) -> Array:
        found = (values.shape[axes[0]], values.shape[axes[1]])
        size, side = self.recipe.size, self.recipe.shorter_side
        if not isinstance(size, tuple) or found == size:
            return values
        values = values.astype(np.float32)
        if side is None:
            return resize_bilinear(values, size, axes)
        scaled, corner = centre_crop(found, side, size)
        cut = [slice(None)] * values.ndim
        for axis, start, length in zip(axes, corner, size, strict=True):
            cut[axis] = slice(start, start + length)
        return resize_bilinear(values, scaled, axes)[tuple(cut)]

    def _scale(self, values: NDArray[np.float32], mean: tuple[float, ...]) -> NDArray[np.float32]:
        channel = self.axes[0] if self.axes is not None else values.ndim - 1
        if self.recipe.bgr:
            values = np.flip(values, channel)
        per_channel = [-1 if axis == channel else 1 for axis in range(values.ndim)]
        minus, over = (np.array(each, np.float32).reshape(per_channel) for each in (mean, self.recipe.std))
        return np.asarray((values / np.float32(self.recipe.divisor) - minus) / over)


def _plan(
    stored: StoredArray | StoredImages,
    rows: NDArray[np.intp],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    recipe: _Recipe,
    layout: str | None,
) -> _Pipeline:
    """Match the layout and size of the data, judged by its first input, to the model's; raises DataError."""
    where, block = next(stored.blocks(rows[:1]))
    if None not in (stored.layout, layout) and stored.layout != layout:
        raise DataError(f"{where}: --data-layout {layout}, but such files are {stored.layout}; leave the option out")
    if len(shape) == 3 and block.ndim == 4:
        data, model = _layouts(where, block.shape[1:], shape, recipe, stored.layout or layout)
        if recipe.size == "model":
            recipe = replace(recipe, size=(shape[_AXES[model][1]], shape[_AXES[model][2]]))
        order = (0, 1, 2, 3) if data == model else (0, 2, 3, 1) if data == "nchw" else (0, 3, 1, 2)
        channel, height, width = (1 + axis for axis in _AXES[model])
        return _Pipeline(recipe, shape, dtype, order, (channel, height, width))
    if block.shape[1:] != shape:
        raise DataError(f"{where}: {_mismatch(block.shape[1:], shape, recipe)}")
    if recipe.size is not None or recipe.channels not in (1, shape[-1] if len(shape) == 1 else 1):
        raise DataError(f"{where}: inputs of shape {shape} are no images; leave --preset, --resize, mean lists out")
    return _Pipeline(recipe, shape, dtype, tuple(range(block.ndim)), None)


def _layouts(
    where: str, found: tuple[int, ...], model: tuple[int, ...], recipe: _Recipe, layout: str | None
) -> tuple[str, str]:
    """Return the layout of the data and that of the model: the one pair that fits shapes, channel count and ``layout``.

    One or three channels are preferred to other counts. Where ``layout`` leaves the model's open, it is nchw, ONNX's.
    """
    fits = [pair for pair in _PAIRS if _fits(found, model, pair, recipe.size)]
    asked = [pair for pair in fits if layout in (None, pair[0])]
    if fits and not asked:
        raise DataError(f"{where}: inputs {found} do not fit the model's {model} as {layout}; try the other layout")
    if not asked:
        raise DataError(f"{where}: {_mismatch(found, model, recipe)}")
    counts = {pair: model[_AXES[pair[1]][0]] for pair in asked}
    asked = [pair for pair in asked if recipe.channels in (1, counts[pair])]
    if not asked:
        have = " or ".join(str(count) for count in sorted({1, 3} & {*counts.values()} or {*counts.values()}))
        raise DataError(f"{where}: mean and std have {recipe.channels} channels, the inputs {have}; give as many")
    asked = [pair for pair in asked if counts[pair] in (1, 3)] or asked
    sided = recipe.size is not None or recipe.channels > 1
    effects = {("as it is" if data == of_model else data, of_model if sided else "") for data, of_model in asked}
    if layout is None and len(effects) > 1:
        raise DataError(f"{where}: inputs {found} fit the model's {model} both ways; give --data-layout nchw|nhwc")
    return asked[0]


def _fits(found: tuple[int, ...], model: tuple[int, ...], layouts: tuple[str, str], size: object) -> bool:
    channels, *own = (found[axis] for axis in _AXES[layouts[0]])
    wanted, *model_size = (model[axis] for axis in _AXES[layouts[1]])
    return channels == wanted and (size == "model" or (size or tuple(own)) == tuple(model_size))


def _mismatch(found: tuple[int, ...], model: tuple[int, ...], recipe: _Recipe) -> str:
    """Say that shapes differ, and which option would help: --resize if only height and width do."""
    resized = f" resized to {recipe.size}" if isinstance(recipe.size, tuple) else ""
    hint = f"store x as (N, {', '.join(map(str, model))})"
    if len(found) == len(model) == 3:
        for pair in reversed(_PAIRS):
            channels, height, width = (model[axis] for axis in _AXES[pair[1]])
            if channels in (1, 3) and _fits(found, model, pair, "model"):
                hint = f"try --resize {height},{width}"
    return f"inputs of shape {found}{resized}, the model takes {model}; {hint}"


def _decoding(recipe: _Recipe, shape: tuple[int, ...]) -> Decoding:
    """Images become gray for a model of one channel, else RGB; imagenet-torch sizes them as torchvision does."""
    ends = (shape[0], shape[-1]) if len(shape) == 3 else ()
    mode = "L" if 1 in ends and 3 not in ends else "RGB"
    if recipe.shorter_side is None or not isinstance(recipe.size, tuple):
        return Decoding(mode)
    return Decoding(mode, recipe.shorter_side, recipe.size)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Inputs as the model takes them, each of ``shape`` and ``dtype``, and labels (N,) or None, in a fixed order.

    ``name`` is for file names, ``source`` a sentence for people.
    """

    name: str
    source: str
    labels: Labels | None
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    _count: int
    _read: Callable[[int, int], Array] = field(repr=False)

    def __len__(self) -> int:
        return self._count

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
            raise RunError(f"{path}: the inputs cannot be written ({error.strerror}); try another --out") from error

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
    path: Path,
    *,
    input_shape: tuple[int, ...],
    dtype: np.dtype[Any],
    preprocessing: Preprocessing = Preprocessing(),
    labels: Path | None = None,
    limit: int | None = None,
    first: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Load the dataset at ``path`` for a model whose inputs, without the batch, are ``input_shape`` of ``dtype``.

    Reads what `open_data` reads; ``labels``: a file of labels in place of the dataset's own. ``limit``: that many
    inputs drawn with ``seed``, in dataset order; ``first``: the first ones; either takes all when there are fewer.
    Raises DataError where the data does not fit the model, MissingExtraError where images need Pillow.
    """
    dtype, recipe = np.dtype(dtype), _recipe(preprocessing)
    stored = open_data(path, labels, _decoding(recipe, input_shape))
    if preprocessing.preset is None and stored.dtype != np.uint8:
        recipe = replace(recipe, divisor=1.0)
    rows, selection = _select(len(stored), limit, first, seed)
    _check_kinds(stored, recipe, dtype)
    _check_values(stored, rows, dtype, preprocessing.preset)
    pipeline = _plan(stored, rows, input_shape, dtype, recipe, preprocessing.data_layout)

    def read(start: int, stop: int) -> Array:
        blocks = [pipeline(where, block) for where, block in stored.blocks(rows[start:stop])]
        return np.concatenate(blocks) if blocks else np.empty((0, *input_shape), dtype)

    y = None if stored.labels is None else stored.labels[rows].astype(np.int64)
    done = [f"{option} {value}" for option, value in vars(preprocessing).items() if value is not None]
    source = ", ".join([f"{selection} of {stored.path}", *done, "no labels" if y is None else "with labels"])
    return Dataset(stored.name, source, y, input_shape, dtype, len(rows), read)


def synthetic_dataset(input_shape: tuple[int, ...], dtype: np.dtype[Any], count: int, seed: int) -> Dataset:
    """Return ``count`` inputs of standard-normal values drawn in float32 with ``seed``, no labels; raises DataError."""
    dtype = np.dtype(dtype)
    if not _is_float(dtype):
        raise DataError(f"the model takes {dtype} and synthetic inputs are floats; give a dataset with --data")
    if count < 1:
        raise DataError(f"{count} synthetic inputs asked for, expected at least 1")
    values = np.random.default_rng(seed).standard_normal((count, *input_shape), np.float32).astype(dtype)
    source = f"{count} synthetic inputs, standard normal with seed {seed}, no labels"
    return Dataset("synthetic", source, None, input_shape, dtype, count, lambda a, b: values[a:b].copy())


def batches(x: Array, size: int) -> Iterator[tuple[Array, int]]:
    """Yield ``x`` (N, ...) as batches (size, ...) and how many inputs of each are real; the last one pads."""
    if size < 1:
        raise ValueError(f"batch size {size}")
    for start in range(0, len(x), size):
        real = np.ascontiguousarray(x[start : start + size])
        padding = np.repeat(real[-1:], size - len(real), axis=0)
        yield (np.concatenate([real, padding]) if len(padding) else real), len(real)


def _select(count: int, limit: int | None, first: int | None, seed: int) -> tuple[NDArray[np.intp], str]:
    """Return the rows to use, ascending, and a phrase that says which; raises DataError."""
    if limit is not None and first is not None:
        raise DataError(f"--limit {limit} and --first {first}: give one of them")
    asked = limit if limit is not None else first
    if asked is not None and asked < 1:
        raise DataError(f"--{'first' if limit is None else 'limit'} {asked}: expected at least 1")
    if asked is None or asked >= count:
        return np.arange(count), f"all {count} inputs"
    if first is not None:
        return np.arange(first), f"the first {first} of {count} inputs"
    rows = np.random.default_rng(seed).choice(count, size=asked, replace=False)
    return np.sort(rows), f"{asked} inputs, drawn with seed {seed} from the {count}"


def _is_float(dtype: np.dtype[Any]) -> bool:
    return "float" in dtype.name  # bfloat16 is no subtype of numpy's floats


def _check_kinds(stored: StoredArray | StoredImages, recipe: _Recipe, dtype: np.dtype[Any]) -> None:
    """Refuse what no values could make right: unscaled pixels, floats for integers."""
    floats = stored.dtype.kind == "f" or recipe.mean is not None or recipe.size is not None
    if floats and not _is_float(dtype):
        raise DataError(f"{stored.path}: the model takes {dtype}; expected integers, no preset, mean, std or resize")
    if stored.dtype == np.uint8 and recipe.mean is None and _is_float(dtype):
        ways = f"--preset ({', '.join(PRESETS)}) or --mean and --std"
        raise DataError(f"{stored.path}: uint8 for a model that takes {dtype}; say how to scale it: {ways}")


def _check_values(
    stored: StoredArray | StoredImages, rows: NDArray[np.intp], dtype: np.dtype[Any], preset: str | None
) -> None:
    """Refuse NaN, Inf, pixels of another scale than the preset's, and integers that the model's dtype cannot hold."""
    if stored.dtype == np.uint8 and _is_float(dtype):
        return
    low, high = (0.0, 255.0) if isinstance(stored, StoredImages) else _value_range(stored, rows)
    where = f"{stored.path}: values from {low} to {high}"
    if preset is not None and (low < 0 or high > 255 or (stored.dtype.kind == "f" and high <= 1)):
        raise DataError(f"{where}, and --preset {preset} expects pixels 0-255; give --mean and --std instead")
    if not _is_float(dtype):
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
