"""What a Keras model computes with: its variables, and the tensors of layers that are no variables.

Keras keeps some numbers of a layer outside of its variables: Normalization its mean and variance, Rescaling its scale and
offset, custom layers whatever tensor they hold as an attribute. Here all of them are parameters, named like variables
(``normalization/mean``). While a model is traced, symbols stand in their places; a fault is assigned to either kind.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.converters.keras_taps import layer_paths
from bitswap_onnx.errors import ModelError

if TYPE_CHECKING:
    import keras

#: Attributes that are plain numbers, by the class of the layer: these are parameters as well.
_NUMBERS = {"Rescaling": ("scale", "offset")}


@dataclass(frozen=True)
class PlainTensor:
    """A tensor of shape ``held`` that ``layer`` holds as ``attribute``.

    ``path`` and ``shape`` are those of its stored parameter: where the tensor is the working copy of a variable, the
    variable's.
    """

    network: "keras.Model"
    layer: "keras.layers.Layer"
    attribute: str
    path: str
    held: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def value(self) -> NDArray[Any]:
        """The elements, as the layer computes with them, in the stored shape."""
        return _elements(self.layer, self.attribute).reshape(self.shape)

    @property
    def dtype(self) -> str:
        """The dtype in which the layer computes with the tensor."""
        return str(self.value.dtype.name)

    def assign(self, values: Any) -> None:
        """Set the elements, and drop what Keras compiled with the old ones."""
        import tensorflow as tf

        values = tf.reshape(values, self.held)
        object.__setattr__(self.layer, self.attribute, values)
        if getattr(self.network, "predict_function", None) is not None:
            self.network.make_predict_function(force=True)


Parameter = Any  # a `keras.Variable` or a `PlainTensor`: both have path, shape, dtype, value and assign


def parameters_of(model: "keras.Model") -> dict[str, Parameter]:
    """Return every variable of ``model`` and every plain tensor of its layers by path, variables first.

    A plain tensor takes the place of the variable that it is the working copy of. Raises ModelError for two variables of
    one path.
    """
    found: dict[str, Parameter] = {}
    for variable in (*model.trainable_variables, *model.non_trainable_variables):
        if variable.path in found:
            raise ModelError(f"{model.name}: two variables are called {variable.path}; give layers names of their own")
        found[variable.path] = variable
    for layer_path, layer in layer_paths(model).items():
        for attribute in _attributes(layer):
            own = (variable.path for variable in layer.variables if variable.name == attribute)
            path, held = next(own, f"{layer_path}/{attribute}"), _elements(layer, attribute).shape
            shape = held
            variable = found.get(path)
            if variable is not None and np.prod(variable.shape) == np.prod(shape):
                shape = tuple(variable.shape)
            found[path] = PlainTensor(model, layer, attribute, path, held, shape)
    return found


@contextmanager
def standing_in(symbols: Mapping[str, Any], parameters: Mapping[str, Parameter]) -> Iterator[None]:
    """Put a symbol, by path, in the place of each plain tensor for a while."""
    import tensorflow as tf

    plain = [parameter for parameter in parameters.values() if isinstance(parameter, PlainTensor)]
    originals = [getattr(tensor.layer, tensor.attribute) for tensor in plain]
    try:
        for tensor in plain:
            symbol = symbols[tensor.path]
            symbol = symbol if tensor.held == tensor.shape else tf.reshape(symbol, tensor.held)
            object.__setattr__(tensor.layer, tensor.attribute, symbol)
        yield
    finally:
        for tensor, original in zip(plain, originals, strict=True):
            object.__setattr__(tensor.layer, tensor.attribute, original)


def _attributes(layer: "keras.layers.Layer") -> list[str]:
    """Return the attributes of a layer that are floating-point tensors, or numbers that it computes with."""
    import tensorflow as tf

    tensors = [
        name
        for name, value in vars(layer).items()
        if not name.startswith("_") and isinstance(value, tf.Tensor) and value.dtype.is_floating
    ]
    numbers = next((_NUMBERS[kind.__name__] for kind in type(layer).__mro__ if kind.__name__ in _NUMBERS), ())
    return list(dict.fromkeys((*tensors, *numbers)))


def _elements(layer: "keras.layers.Layer", attribute: str) -> NDArray[Any]:
    import tensorflow as tf

    value = getattr(layer, attribute)
    return np.asarray(value if isinstance(value, tf.Tensor) else tf.cast(value, layer.compute_dtype))
