"""Inputs and labels of a tf.data.Dataset, of single inputs or of batches."""

from typing import Any

import numpy as np

from bitswap_onnx.converters.keras_setup import require
from bitswap_onnx.data.in_memory import IN_MEMORY, inputs_and_labels, stored_elements
from bitswap_onnx.data.stored import StoredArray
from bitswap_onnx.errors import DataError

#: Dimensions that single inputs have, at most: an image with its channels.
_MOST_DIMENSIONS = 3


def read_tf_data(data: Any, most: int | None) -> StoredArray:
    """Return the first inputs, ``most`` of them (None: all), of a tf.data.Dataset; raises DataError for an endless one."""
    require("tensorflow")
    import tensorflow as tf

    if most is None and data.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise DataError(
            f"{IN_MEMORY}: expected a dataset that ends, found one that repeats; give data.take(N) or `first`"
        )
    return stored_elements(data.as_numpy_iterator(), np.asarray, batched=_is_batched(data.element_spec), most=most)


def _is_batched(spec: Any) -> bool:
    """Whether the elements are batches: of a size that is not fixed, as long as their labels, or of images."""
    x, y = (None if part is None else getattr(part, "shape", None) for part in inputs_and_labels(spec))
    if x is None or x.rank in (None, 0):
        return False
    if y is not None and y.rank is not None:
        return y.rank > 0 and (x[0] is None or x[0] == y[0])
    return x[0] is None or x.rank > _MOST_DIMENSIONS
