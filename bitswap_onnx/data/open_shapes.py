"""Open dimensions of a model's input, settled by the shape of its data."""

from collections.abc import Iterator, Sequence

import numpy as np

from bitswap_onnx.data.images import StoredImages
from bitswap_onnx.data.preprocessing import AXES, LAYOUT_PAIRS
from bitswap_onnx.data.presets import Recipe
from bitswap_onnx.data.stored import StoredArray
from bitswap_onnx.errors import DataError


def settled_shape(
    stored: StoredArray | StoredImages, dims: Sequence[int | None], recipe: Recipe, layout: str | None
) -> tuple[int, ...]:
    """Return the input shape ``dims`` (None: open) with the sizes of the first stored input, resized as ``recipe`` says.

    ``layout``: that of the stored data, None if it is not known. Raises DataError where no layout fits, or several do.
    """
    sizes = tuple(size for size in dims if size is not None)
    if len(sizes) == len(dims):
        return sizes
    where, block = next(stored.blocks(np.arange(1)))
    found = block.shape[1:]
    fitting = list(dict.fromkeys(_fitting(found, dims, recipe, stored.layout or layout)))
    fitting = [shape for shape in fitting if {shape[0], shape[-1]} & {1, 3}] or fitting
    if len(fitting) == 1:
        return fitting[0]
    model = ", ".join("?" if size is None else str(size) for size in dims)
    if fitting:
        ways = " or ".join(",".join(map(str, shape)) for shape in fitting)
        raise DataError(
            f"{where}: inputs of shape {found} fit the model's ({model}) as {ways}; give one as `input_shape`"
        )
    raise DataError(
        f"{where}: inputs of shape {found} do not fit the model's ({model}); store x in that shape, or give `input_shape`"
    )


def _fitting(
    found: tuple[int, ...], dims: Sequence[int | None], recipe: Recipe, layout: str | None
) -> Iterator[tuple[int, ...]]:
    """Yield the shapes that agree with ``dims``: as images in each pair of layouts, else as the data are."""
    if len(found) != 3 or len(dims) != 3:
        if len(found) == len(dims) and _agrees(found, dims):
            yield found
        return
    for data, model in LAYOUT_PAIRS:
        if layout not in (None, data):
            continue
        channels, *own = (found[axis] for axis in AXES[data])
        if isinstance(recipe.size, tuple):
            own = [*recipe.size]
        elif recipe.size == "model":
            own = [dims[axis] or size for axis, size in zip(AXES[model][1:], own, strict=True)]
        sizes = dict(zip(AXES[model], (channels, *own), strict=True))
        shape = tuple(sizes[axis] for axis in range(3))
        if _agrees(shape, dims) and recipe.channels in (1, channels):
            yield shape


def _agrees(shape: tuple[int, ...], dims: Sequence[int | None]) -> bool:
    return all(size in (None, found) for size, found in zip(dims, shape, strict=True))
