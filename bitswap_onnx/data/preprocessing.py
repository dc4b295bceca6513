"""Stored values → inputs of the model: scaling, resizing, and the match of layouts and sizes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.data.images import Decoding, StoredImages, centre_crop
from bitswap_onnx.data.presets import PRESETS, Recipe
from bitswap_onnx.data.stored import Array, StoredArray
from bitswap_onnx.errors import BitswapError, DataError
from bitswap_onnx.faults.numerals import numbers_in, real, whole

#: Layout → where one input has its channels, height and width.
AXES = {"nchw": (0, 1, 2), "nhwc": (2, 0, 1)}
#: A layout of the data, and one of the model.
LAYOUT_PAIRS = [(data, model) for data in AXES for model in AXES]


@dataclass(frozen=True)
class Preprocessing:
    """The preprocessing that the user wants; raises DataError for wrong or contradictory values.

    ``preset``: a name in `PRESETS`, for RGB pixels 0-255; with ``-numpy`` behind it, computed as numpy does. ``mean``,
    ``std``: compute (x - mean) / std, with one number for all channels or one per channel, also as text (``0.4,0.5,0.6``);
    afterwards each is a tuple of numbers. x is the stored value, or the
    stored value / 255 for uint8. ``resize``: (height, width), bilinear, replaces the resizing of the preset.
    ``data_layout``: the layout of the stored data, nchw or nhwc.

    imagenet-torch resizes image files as torchvision does (Pillow, antialiased) and arrays with `resize_bilinear`; arrays
    of 224 x 224 count as cropped already. Everything else resizes with `resize_bilinear`.
    """

    preset: str | None = None
    mean: Any = None
    std: Any = None
    resize: Any = None
    data_layout: str | None = None

    def __post_init__(self) -> None:
        for name, number in (("mean", Real), ("std", Real), ("resize", Integral)):
            object.__setattr__(self, name, _numbers(name, getattr(self, name), number))
        mean, std = self.mean or (0.0,), self.std or (1.0,)
        if self.preset is not None and self.preset not in PRESETS:
            raise DataError(f"`preset`: expected one of {', '.join(PRESETS)}, found {self.preset!r}")
        if self.preset is not None and (self.mean or self.std):
            raise DataError(f"`preset` {self.preset} sets mean and std already; give `preset`, or `mean` and `std`")
        if len(mean) != len(std) and 1 not in (len(mean), len(std)):
            raise DataError(f"`mean` has {len(mean)} values and `std` {len(std)}; expected as many, or one for all")
        if not np.isfinite([*mean, *std]).all() or min(std) <= 0:
            raise DataError(f"`mean` {mean}, `std` {std}: expected finite numbers, and a std above 0")
        if self.resize is not None and (len(self.resize) != 2 or min(self.resize) < 1):
            raise DataError(f"`resize`: expected a height and a width of at least 1, found {self.resize}")
        if self.data_layout not in (None, *AXES):
            raise DataError(f"`data_layout`: expected nchw or nhwc, found {self.data_layout!r}")


def _numbers(name: str, values: object, number: type) -> tuple[Any, ...] | None:
    """Return numbers of some sequence or text as a tuple; raises DataError for anything else."""
    if values is None:
        return None
    if isinstance(values, str):
        try:
            return numbers_in(name, values, whole if number is Integral else real)
        except BitswapError as error:
            raise DataError(str(error)) from None
    if isinstance(values, number):
        return (values,)
    if not isinstance(values, Sequence | np.ndarray) or not all(isinstance(value, number) for value in values):
        kind = "whole numbers" if number is Integral else "numbers"
        raise DataError(f"`{name}`: expected a tuple of {kind}, found {values!r}")
    return tuple(values)


def recipe_for(preprocessing: Preprocessing) -> Recipe:
    """Return the computation for the wanted preprocessing."""
    if preprocessing.preset is None:
        mean = preprocessing.mean or ((0.0,) if preprocessing.std else None)
        return Recipe(mean, preprocessing.std or (1.0,), size=preprocessing.resize)
    preset = PRESETS[preprocessing.preset]
    return preset if preprocessing.resize is None else replace(preset, size=preprocessing.resize, shorter_side=None)


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
class Pipeline:
    """Makes inputs of ``shape`` and ``dtype`` from blocks of stored inputs; ``order`` transposes to the model's layout."""

    recipe: Recipe
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: tuple[int, ...]
    axes: tuple[int, int, int] | None  # of channels, height and width in a batch of images; None: no images

    def __call__(self, where: str, block: Array) -> Array:
        """Return a block (n, ...) of stored inputs as inputs of the model; raises DataError."""
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            values = self._compute(where, block.transpose(self.order))
        if is_float(self.dtype) and not np.isfinite(values).all():
            raise DataError(f"{where}: values too large for {self.dtype}, which the model takes; scale them")
        return values

    def _compute(self, where: str, values: Array) -> Array:
        if self.axes is not None and self.recipe.size is not None:
            values = self._resize(values, self.axes[1:])
        if values.shape[1:] != self.shape:
            raise DataError(f"{where}: shape {values.shape[1:]}, the model takes {self.shape}; try `resize`")
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
        kind = np.float64 if self.recipe.double else np.float32
        minus: Array = np.array(mean, kind).reshape(per_channel)
        over: Array = np.array(self.recipe.std, kind).reshape(per_channel)
        return np.asarray((values / np.float32(self.recipe.divisor) - minus) / over, np.float32)


def plan_pipeline(
    stored: StoredArray | StoredImages,
    rows: NDArray[np.intp],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    recipe: Recipe,
    layout: str | None,
) -> Pipeline:
    """Return the pipeline that brings the layout and size of the first input to the model's; raises DataError."""
    where, block = next(stored.blocks(rows[:1]))
    if None not in (stored.layout, layout) and stored.layout != layout:
        raise DataError(f"{where}: `data_layout` {layout}, but such files are {stored.layout}; leave `data_layout` out")
    if len(shape) == 3 and block.ndim == 4:
        data, model = _layouts(where, block.shape[1:], shape, recipe, stored.layout or layout)
        if recipe.size == "model":
            recipe = replace(recipe, size=(shape[AXES[model][1]], shape[AXES[model][2]]))
        order = (0, 1, 2, 3) if data == model else (0, 2, 3, 1) if data == "nchw" else (0, 3, 1, 2)
        channel, height, width = (1 + axis for axis in AXES[model])
        return Pipeline(recipe, shape, dtype, order, (channel, height, width))
    if block.shape[1:] != shape:
        raise DataError(f"{where}: {_mismatch(block.shape[1:], shape, recipe)}")
    if recipe.size is not None or recipe.channels not in (1, shape[-1] if len(shape) == 1 else 1):
        raise DataError(
            f"{where}: inputs of shape {shape} are not images; leave out `preset`, `resize` and `mean` of several values"
        )
    return Pipeline(recipe, shape, dtype, tuple(range(block.ndim)), None)


def _layouts(
    where: str, found: tuple[int, ...], model: tuple[int, ...], recipe: Recipe, layout: str | None
) -> tuple[str, str]:
    """Return the layout of the data and that of the model: the one pair that fits shapes, channel count and ``layout``.

    One or three channels are preferred to other counts. Where the layout of the model stays open, it is nchw, as in ONNX.
    """
    fitting = [pair for pair in LAYOUT_PAIRS if _fits(found, model, pair, recipe.size)]
    pairs = [pair for pair in fitting if layout in (None, pair[0])]
    if fitting and not pairs:
        raise DataError(f"{where}: inputs {found} do not fit the model's {model} as {layout}; try the other layout")
    if not pairs:
        raise DataError(f"{where}: {_mismatch(found, model, recipe)}")
    counts = {pair: model[AXES[pair[1]][0]] for pair in pairs}
    pairs = [pair for pair in pairs if recipe.channels in (1, counts[pair])]
    if not pairs:
        have = " or ".join(str(count) for count in sorted({1, 3} & {*counts.values()} or {*counts.values()}))
        raise DataError(f"{where}: mean and std have {recipe.channels} channels, the inputs {have}; give as many")
    pairs = [pair for pair in pairs if counts[pair] in (1, 3)] or pairs
    sided = recipe.size is not None or recipe.channels > 1
    effects = {("as it is" if data == of_model else data, of_model if sided else "") for data, of_model in pairs}
    if layout is None and len(effects) > 1:
        raise DataError(f"{where}: inputs {found} fit the model's {model} both ways; give `data_layout` nchw or nhwc")
    return pairs[0]


def _fits(found: tuple[int, ...], model: tuple[int, ...], layouts: tuple[str, str], size: object) -> bool:
    channels, *own = (found[axis] for axis in AXES[layouts[0]])
    wanted, *model_size = (model[axis] for axis in AXES[layouts[1]])
    return channels == wanted and (size == "model" or (size or tuple(own)) == tuple(model_size))


def _mismatch(found: tuple[int, ...], model: tuple[int, ...], recipe: Recipe) -> str:
    """Return the sentence that shapes differ, with a remedy: `resize` where only height and width differ."""
    resized = f" resized to {recipe.size}" if isinstance(recipe.size, tuple) else ""
    hint = f"store x as (N, {', '.join(map(str, model))})"
    if len(found) == len(model) == 3:
        for pair in reversed(LAYOUT_PAIRS):
            channels, height, width = (model[axis] for axis in AXES[pair[1]])
            if channels in (1, 3) and _fits(found, model, pair, "model"):
                hint = f"try `resize` {height},{width}"
    return f"inputs of shape {found}{resized}, the model takes {model}; {hint}"


def decoding_for(recipe: Recipe, shape: Sequence[int | None]) -> Decoding:
    """Return how to decode images: gray for a model of one channel, else RGB; imagenet-torch sizes as torchvision does."""
    ends = (shape[0], shape[-1]) if len(shape) == 3 else ()
    mode = "L" if 1 in ends and 3 not in ends else "RGB"
    if recipe.shorter_side is None or not isinstance(recipe.size, tuple):
        return Decoding(mode)
    return Decoding(mode, recipe.shorter_side, recipe.size)


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether ``dtype`` is a float; bfloat16 is one, though no subtype of numpy's floats."""
    return "float" in dtype.name
