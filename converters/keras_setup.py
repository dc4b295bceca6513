"""Imports Keras on TensorFlow quietly, with a one-line error where a package is missing."""

import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitswap_onnx.converters.keras_refusals import refuse_bytecode
from bitswap_onnx.converters.silence import silenced
from bitswap_onnx.errors import MissingExtraError, ModelError, one_line, shown

if TYPE_CHECKING:
    import keras

#: Environment variables that silence TensorFlow, its kernels and its CUDA stubs; set before these load.
QUIET_ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_CPP_MIN_VLOG_LEVEL": "0", "GRPC_VERBOSITY": "ERROR"}

_NOISY_LOGGERS = ("tensorflow", "tf2onnx", "absl")


def require(*modules: str) -> None:
    """Import ``modules`` of the extra ``[keras]``, quietly.

    Raises MissingExtraError, with the command that installs it, where one is missing, and ModelError where Keras was told
    to run on something other than TensorFlow.
    """
    for name, value in QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if "keras" not in sys.modules:
        os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    for name in modules:
        try:
            with quiet():
                module = import_module(name)
        except ImportError:
            package = name.partition(".")[0]
            raise MissingExtraError(
                f"{package} is not installed; it comes with: pip install 'bitswap-onnx[keras]'"
            ) from None
        if name == "keras" and module.config.backend() != "tensorflow":
            raise ModelError(
                f"Keras runs on {module.config.backend()} here; set KERAS_BACKEND=tensorflow before Keras is imported"
            )


def load_keras_file(path: str | Path) -> "keras.Model":
    """Return the model in a ``.keras`` or ``.h5`` file; no code from the file runs.

    Raises ModelError for a file that is missing, is no Keras model, or asks for code (Lambda layers, unknown classes).
    """
    require("tensorflow", "keras")
    import keras

    if not Path(path).is_file():
        raise ModelError(f"{path}: cannot read the model: no such file")
    refuse_bytecode(Path(path))
    try:
        with quiet():
            model: keras.Model = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises whatever its parsers raise
        raise ModelError(f"{path}: Keras cannot load it: {keras_reason(error)}") from None
    return model


def checked_model(model: object) -> "keras.Model":
    """Return ``model`` if it is a Keras model; raises ModelError for anything else."""
    import keras

    if isinstance(model, keras.Model):
        return model
    raise ModelError(f"`model`: expected a Keras model or the path of a .keras or .h5 file, found {shown(model)}")


def keras_reason(error: BaseException) -> str:
    """Return the message of an error of Keras or TensorFlow on one line, without colours and lists of arguments."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).partition("Arguments received by ")[0]
    return one_line(RuntimeError(text)) if text.strip() else one_line(error)


@contextmanager
def quiet() -> Iterator[None]:
    """Drop everything that TensorFlow prints, logs and warns of; failures still raise.

    Its native code writes to file descriptor 2 before it reads any setting, so the descriptor itself is redirected.
    """
    with warnings.catch_warnings(), silenced(_NOISY_LOGGERS), _stderr_apart():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _stderr_apart() -> Iterator[None]:
    stream: Any = sys.stderr
    if stream is not None:
        stream.flush()
    try:
        original = os.dup(2)
    except OSError:  # the process has no standard error
        yield
        return
    with tempfile.TemporaryFile() as sink:
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            if stream is not None:
                stream.flush()
            os.dup2(original, 2)
            os.close(original)
