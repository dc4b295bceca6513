"""What of Keras is refused, by layer, before anything is traced, and before anything in a file could run."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitswap_onnx.converters.keras_taps import layer_paths
from bitswap_onnx.errors import ModelError

if TYPE_CHECKING:
    import keras

#: Classes of layers that look their inputs up in a hash table.
_TABLES = frozenset({"IndexLookup", "Hashing", "HashedCrossing", "TextVectorization"})


def refuse_layers(model: "keras.Model") -> None:
    """Raise ModelError for a layer that ONNX has no counterpart of, or whose outputs depend on earlier batches."""
    for path, layer in layer_paths(model).items():
        where = f"{model.name}: layer {path} ({type(layer).__name__})"
        if getattr(layer, "stateful", False):
            raise ModelError(
                f"{where} is stateful: its scores depend on the batches before; build it with stateful=False"
            )
        if _TABLES & {kind.__name__ for kind in type(layer).__mro__}:
            raise ModelError(
                f"{where} looks its inputs up in a hash table, which ONNX does not have; export the model behind it, "
                "which takes its numbers"
            )


def refuse_bytecode(path: Path) -> None:
    """Raise ModelError for a saved model with Python bytecode in it, as Lambda layers have; it is not deserialised.

    Reads a file's description of the model alone. A file without one passes: Keras says what is wrong with it.
    """
    for layer, kind in _with_code(_configuration(path), "", "the model"):
        if kind == "Lambda":
            problem = (
                f"layer {layer} is a Lambda layer with Python bytecode, which could do anything, and is not loaded"
            )
            remedy = (
                "replace it by a layer of Keras or by a subclass of keras.layers.Layer, or export the model from Python "
                "with `export_keras`"
            )
        else:
            problem = (
                f"layer {layer} ({kind}) has a Python lambda as a setting, which could do anything, and is not loaded"
            )
            remedy = "give it a function of Keras by its name"
        raise ModelError(f"{path}: {problem}; {remedy}")


def _configuration(path: Path) -> Any:
    """Return the description of the model in a ``.keras`` or ``.h5`` file, None if there is none that can be read."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return json.loads(archive.read("config.json"))
        import h5py

        with h5py.File(path) as file:
            return json.loads(file.attrs["model_config"])
    except Exception:  # whatever the parsers raise: Keras reads the file next and says what is wrong
        return None


def _with_code(entry: Any, layer: str, kind: str) -> Iterator[tuple[str, str]]:
    """Yield name and class of the innermost layer around each piece of bytecode in a model's description."""
    if isinstance(entry, dict):
        if _is_code(entry, kind):
            yield layer, kind
            return
        settings = entry.get("config")
        if isinstance(settings, dict) and isinstance(entry.get("class_name"), str):
            layer, kind = str(settings.get("name", layer)), entry["class_name"]
    for item in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
        yield from _with_code(item, layer, kind)


def _is_code(entry: dict[str, Any], kind: str) -> bool:
    """Whether this is a function's bytecode, as Keras 3 and Keras 2 write it."""
    dumped = entry.get("value") if entry.keys() == {"value"} else None
    return (
        entry.get("class_name") == "__lambda__"
        or (isinstance(dumped, list) and len(dumped) == 3 and isinstance(dumped[0], str))
        or (kind == "Lambda" and entry.get("function_type") == "lambda")
    )
