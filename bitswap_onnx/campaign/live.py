"""Objects of Python callers, resolved into what a campaign takes: models of frameworks, arrays and datasets.

Frameworks are recognised by the names of classes and modules, so that none is imported for another's objects.
"""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.data.dataset import Dataset
from bitswap_onnx.data.in_memory import stored_in_memory
from bitswap_onnx.data.open_shapes import settled_shape
from bitswap_onnx.data.preprocessing import decoding_for, recipe_for
from bitswap_onnx.data.readers import Reader, open_data
from bitswap_onnx.data.stored import StoredArray
from bitswap_onnx.data.synthetic import is_synthetic
from bitswap_onnx.errors import DataError, ModelError, check_path, shown

if TYPE_CHECKING:
    from typing import TypeGuard

    import keras
    import torch

    from bitswap_onnx.campaign.settings import Settings
    from bitswap_onnx.converters.native import Native
    from bitswap_onnx.graph.model import Model

#: Data as settings hold them: a path, ``synthetic[:N]``, arrays in memory, or inputs that are ready for the model.
GivenData = str | Path | StoredArray | Dataset

_DATA = (
    "a path, 'synthetic:N', an array x, a pair (x, y), a dict with x and y, a torch Dataset or DataLoader, or a "
    "tf.data.Dataset"
)
_MODEL = "the path of an ONNX file, a Model, an onnx.ModelProto, a torch.nn.Module or a Keras model"


def _is(value: object, library: str, *names: str) -> bool:
    """Whether a class of ``value`` has one of the ``names`` and comes from ``library``."""
    kinds = ((base.__module__.partition(".")[0], base.__name__) for base in type(value).__mro__)
    return any(home == library and name in names for home, name in kinds)


def given_data(data: object, most: int | None = None) -> GivenData:
    """Return the data that a caller gave: text and paths as they are, everything else read into arrays.

    ``most``: the number of first inputs that are needed of a framework's dataset; None: all. Raises DataError for
    anything else, BitswapError for an empty path, MissingExtraError where the framework is absent.
    """
    if isinstance(data, StoredArray | Dataset) or (isinstance(data, str) and is_synthetic(data)):
        return data
    if isinstance(data, str | PathLike):
        return check_path("data", data)
    if _is(data, "torch", "Dataset", "DataLoader"):
        from bitswap_onnx.converters.torch_data import read_torch_data

        return read_torch_data(data, most)
    if _is(data, "tensorflow", "DatasetV2"):
        from bitswap_onnx.converters.tf_data import read_tf_data

        return read_tf_data(data, most)
    if not isinstance(data, tuple | list | Mapping) and not hasattr(data, "__array__"):
        raise DataError(f"`data`: expected {_DATA}, found {shown(data)}")
    return stored_in_memory(data, _as_array)


def _as_array(values: Any) -> Any:
    if _is(values, "torch", "Tensor"):
        from bitswap_onnx.converters.torch_data import torch_array

        return torch_array(values)
    return values


def given_model(model: object, settings: "Settings") -> "Model":
    """Return the model that a caller gave: loaded from a file, checked, or exported from a framework.

    A module of PyTorch is exported for inputs like those of the settings' data, or of their ``input_shape``. Raises
    ModelError as `load_model`, `export_torch` and `export_keras` do, and for anything else; DataError where a module has
    no example.
    """
    from bitswap_onnx.graph.model import Model, load_model

    if is_torch_module(model):
        from bitswap_onnx.converters.torch_to_onnx import export_torch

        return export_torch(model, _example(settings))
    if is_keras_model(model):
        from bitswap_onnx.converters.keras_to_onnx import export_keras

        return export_keras(model, input_shape=settings.input_shape)
    if isinstance(model, Model):
        return model
    if _is(model, "onnx", "ModelProto") or (isinstance(model, str | PathLike) and str(model)):
        return load_model(model)  # type: ignore[arg-type]
    if isinstance(model, type):
        raise ModelError(
            f"`model`: expected {_MODEL}, found the class {model.__name__}; give an object: {model.__name__}()"
        )
    if isinstance(model, Mapping):
        raise ModelError(
            f"`model`: expected {_MODEL}, found a dictionary; load a state dict into its module and give that"
        )
    raise ModelError(f"`model`: expected {_MODEL}, found {shown(model)}")


def given_native(native: object, model: "Model") -> "Native":
    """Return the native run that a caller gave: of a torch module, a Keras model, ``tf``, or what a function makes.

    ``model`` is the ONNX model beside it. Raises ModelError for anything else.
    """
    from bitswap_onnx.converters.native import keras_native, tensorflow_native, torch_native

    if is_torch_module(native):
        return torch_native(native)
    if is_keras_model(native):
        return keras_native(model, native)
    if native == "tf":
        return tensorflow_native(model)
    if callable(native):
        made: Native = native(model)
        return made
    raise ModelError(f"`native`: expected a torch.nn.Module, a Keras model or 'tf', found {shown(native)}")


def is_torch_module(value: object) -> "TypeGuard[torch.nn.Module]":
    """Whether ``value`` is a module of PyTorch."""
    return _is(value, "torch", "Module")


def is_keras_model(value: object) -> "TypeGuard[keras.Model]":
    """Whether ``value`` is a model of Keras 3."""
    return _is(value, "keras", "Model")


def _example(settings: "Settings") -> NDArray[Any]:
    """Return an example of a PyTorch module's inputs, (1, ...), of which shape and element type count."""
    data, shape = settings.data, settings.input_shape
    if isinstance(data, Dataset):
        return np.empty((1, *data.shape), data.dtype)
    recipe = recipe_for(settings.preprocessing)
    if isinstance(data, Path):
        data = open_data(data, None, decoding_for(recipe, (3, None, None)), DATA_READERS)
    if data is None or isinstance(data, str):
        if shape is None:
            raise DataError(
                "`data`: expected inputs, since a torch module is exported for one like them; found "
                f"{'none' if data is None else data}; give data=(x, y), or `input_shape` of one input like (3, 32, 32)"
            )
        return np.empty((1, *shape), np.float32)
    if shape is None:
        found = next(data.blocks(np.arange(1)))[1].shape[1:]
        shape = found
        if len(found) == 3 and (recipe.size is not None or (found[-1] in (1, 3) and found[0] not in (1, 3))):
            channels = found[-1] if found[-1] in (1, 3) else found[0]
            shape = settled_shape(data, (channels, None, None), recipe, settings.preprocessing.data_layout)
    is_whole = data.dtype.kind in "bi" and recipe.mean is None
    return np.empty((1, *shape), data.dtype if is_whole else np.float32)


def _read_tensors(path: Path) -> StoredArray:
    from bitswap_onnx.converters.torch_data import read_tensor_file

    return read_tensor_file(path)


#: Readers of data files that need a framework.
DATA_READERS: Mapping[str, Reader] = {".pt": _read_tensors, ".pth": _read_tensors}
