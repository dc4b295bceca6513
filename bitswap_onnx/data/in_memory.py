"""Data that a Python caller gives: an array, a pair (x, y), a dict with both, or elements that are one of these."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from bitswap_onnx.data.labels import as_labels
from bitswap_onnx.data.stored import Array, StoredArray
from bitswap_onnx.errors import DataError, one_line, shown

#: Where messages say that such data are.
IN_MEMORY = "`data`"

#: Names of inputs, and of their labels, in a dict.
_INPUT_NAMES = ("x", "x_test", "data", "images", "image", "inputs", "input", "pixel_values")
_LABEL_NAMES = ("y", "y_test", "labels", "label", "targets", "target")

AsArray = Callable[[Any], Array]


def inputs_and_labels(content: Any) -> tuple[Any, Any]:
    """Return what ``content`` holds as inputs and as labels: itself, a pair, or by name in a dict; None for neither."""
    if isinstance(content, Mapping):
        inputs, labels = (
            next((content[name] for name in names if name in content), None) for names in (_INPUT_NAMES, _LABEL_NAMES)
        )
        return inputs, labels
    is_pair = isinstance(content, tuple) or (isinstance(content, list) and content and hasattr(content[0], "shape"))
    if is_pair and len(content) in (1, 2):
        return content[0], content[1] if len(content) == 2 else None
    return (None, None) if is_pair else (content, None)


def stored_in_memory(content: Any, as_array: AsArray = np.asarray) -> StoredArray:
    """Return an array (N, ...), a pair (x, y) or a dict as stored data; arrays are kept, not copied; raises DataError.

    ``as_array`` makes numpy's array of an array of another library.
    """
    inputs, labels = inputs_and_labels(content)
    if inputs is None:
        named = f"the names {', '.join(map(str, content))}"[:80] if isinstance(content, Mapping) else shown(content)
        raise DataError(f"{IN_MEMORY}: expected inputs x, a pair (x, y) or a dict with x and y, found {named}")
    x = _array(inputs, as_array, "x")
    return _stored(x, None if labels is None else _array(labels, as_array, "y"))


def stored_elements(elements: Iterable[Any], as_array: AsArray, *, batched: bool, most: int | None) -> StoredArray:
    """Return single inputs or batches of them, each with or without labels, as stored data; raises DataError.

    ``most``: the number of inputs after which reading ends; None reads all of them.
    """
    xs: list[Array] = []
    ys: list[Array] = []
    inputs_read = 0
    for element in elements:
        inputs, labels = inputs_and_labels(element)
        if inputs is None:
            raise DataError(
                f"{IN_MEMORY}: expected elements x, (x, y) or dicts with x and y, found {_described(element)}; "
                "map the dataset to such pairs"
            )
        xs.append(_array(inputs, as_array, "x"))
        if labels is not None:
            ys.append(_array(labels, as_array, "y"))
        inputs_read += len(xs[-1]) if batched and xs[-1].ndim else 1
        if most is not None and inputs_read >= most:
            break
    if not xs or len(ys) not in (0, len(xs)):
        found = "none" if not xs else f"labels for {len(ys)} of {len(xs)} elements"
        raise DataError(f"{IN_MEMORY}: expected inputs, all with labels or all without, found {found}")
    try:
        x, y = (np.concatenate(parts) if batched else np.stack(parts) for parts in (xs, ys or xs))
    except ValueError as error:
        raise DataError(f"{IN_MEMORY}: expected inputs of one shape: {one_line(error)}; resize or crop them") from None
    return _stored(*(array[:most] for array in (x, y))) if ys else _stored(x[:most], None)


def _described(element: Any) -> str:
    if isinstance(element, tuple | list):
        return f"{len(element)} values each"
    return f"the names {', '.join(map(str, element))}"[:80] if isinstance(element, Mapping) else shown(element)


def _array(values: Any, as_array: AsArray, name: str) -> Array:
    try:
        array = np.asarray(as_array(values))
    except DataError:
        raise
    except Exception as error:  # libraries raise what they like
        raise DataError(f"{IN_MEMORY}: {name} is no array of numbers ({shown(values)}): {one_line(error)}") from None
    if array.dtype.kind not in "biuf" and "float" not in array.dtype.name:
        what = f"{array.dtype} of shape {array.shape}" if hasattr(values, "shape") else shown(values)
        raise DataError(f"{IN_MEMORY}: expected numbers as {name}, found {what}")
    return array


def _stored(x: Array, y: Array | None) -> StoredArray:
    if x.ndim < 2 or not x.size:
        raise DataError(f"{IN_MEMORY}: x has shape {x.shape}, expected at least one input: (N, ...)")
    return StoredArray("data", IN_MEMORY, x, None if y is None else as_labels(y, len(x), IN_MEMORY))
