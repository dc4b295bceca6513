"""ONNX model → TensorFlow SavedModel through onnx2tf: an independent run of any model, clean or faulty.

onnx2tf prints, changes the file that it reads, ends its process on errors and switches TensorFlow to Keras 2. So it runs
in a separate process (``python -m bitswap_onnx.converters.onnx_to_tf MODEL FOLDER``), on a copy of the model.
"""

import os
import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import LiftConstantsToInitializersPass, RemoveUnusedNodesPass
from onnxscript.optimizer import fold_constants

from bitswap_onnx.converters.keras_setup import QUIET_ENVIRONMENT, quiet, require
from bitswap_onnx.errors import MissingExtraError, ModelError, one_line
from bitswap_onnx.graph.model import Model, load_model, save_model

#: Packages that onnx2tf imports, declared by it or not.
_NEEDS = ("tensorflow", "onnx2tf", "tf_keras", "ai_edge_litert", "onnx_graphsurgeon", "sng4onnx", "psutil")

_BATCH = 64


def onnx_to_tf(model: Model | str | Path, folder: str | Path) -> None:
    """Write ``model`` as a TensorFlow SavedModel into ``folder``; `run_saved_model` runs it.

    Weights keep their values, inputs their layout and names. Batch-norm may be folded and layers reordered: the
    result computes the same function, but is no model to inject faults into.

    Raises ModelError for a model that onnx2tf cannot convert and MissingExtraError without onnx2tf or what it needs.
    """
    for module in _NEEDS:
        if find_spec(module) is None:
            raise MissingExtraError(f"{module} is not installed; it comes with: pip install 'bitswap-onnx[keras]'")
    source = model if isinstance(model, Model) else load_model(model)
    with tempfile.TemporaryDirectory(prefix="bitswap-onnx-") as scratch:
        copy = Path(scratch, "model.onnx")
        save_model(source, copy)
        command = [sys.executable, "-m", "bitswap_onnx.converters.onnx_to_tf", str(copy), str(Path(folder).absolute())]
        done = subprocess.run(
            command,
            cwd=scratch,
            env={**os.environ, **QUIET_ENVIRONMENT},
            capture_output=True,
            text=True,
            errors="replace",
        )
    if done.returncode or not Path(folder, "saved_model.pb").is_file():
        raise ModelError(f"{source.name}: onnx2tf cannot convert it: {_reason(done.stdout + done.stderr)}")


def run_saved_model(folder: str | Path, inputs: NDArray[Any]) -> NDArray[Any]:
    """Return the scores (n, classes) for ``inputs`` (n, ...) in the layout of the ONNX model (usually NCHW).

    Raises ModelError for a folder that holds no SavedModel with one input and one output.
    """
    require("tensorflow")
    import tensorflow as tf

    try:
        with quiet():
            infer = tf.saved_model.load(str(folder)).signatures["serving_default"]
    except (OSError, KeyError) as error:
        raise ModelError(f"{folder}: cannot load the SavedModel: {one_line(error)}") from None
    names = list(infer.structured_input_signature[1])
    if len(names) != 1 or len(infer.structured_outputs) != 1:
        raise ModelError(
            f"{folder}: expected one input and one output, found {len(names)} and {len(infer.structured_outputs)}"
        )
    fixed = infer.structured_input_signature[1][names[0]].shape[0]
    step = fixed or _BATCH
    scores = []
    with quiet():
        for first in range(0, len(inputs), step):
            batch = inputs[first : first + step]
            filler = np.zeros((step - len(batch) if fixed else 0, *inputs.shape[1:]), inputs.dtype)
            (output,) = infer(**{names[0]: tf.constant(np.concatenate([batch, filler]))}).values()
            scores.append(np.asarray(output)[: len(batch)])
    return np.concatenate(scores)


def _reason(text: str) -> str:
    """Return the message of the last exception or error, without colours."""
    errors = [line for line in text.splitlines() if re.match(r"\w*(Error|Exception)\b|.*ERROR:.*(:|\.)", line)]
    plain = re.sub(r"\x1b\[\d*m|ERROR:", "", errors[-1] if errors else text.strip().rpartition("\n")[2])
    return " ".join(plain.split())[:300] or "it ended without a reason"


def _convert(source: str, folder: str) -> None:
    """Convert a file that may be changed; runs in a separate process."""
    import onnx2tf
    import onnx2tf.onnx2tf as implementation
    import tensorflow as tf

    images = _constants_settled(source)

    # For a fixed batch onnx2tf fetches test images from the network, to compare intermediate values with.
    implementation.download_test_image_data = lambda: np.zeros((20, 128, 128, 3), np.float32)
    network = onnx2tf.convert(
        input_onnx_file_path=source,
        output_folder_path=folder,
        keep_ncw_or_nchw_or_ncdhw_input_names=images,
        not_use_onnxsim=True,
        disable_model_save=True,
        verbosity="error",
    )
    tf.saved_model.save(network, folder)


def _constants_settled(file: str) -> list[str]:
    """Make the file readable for onnx2tf, and return the names of the inputs whose layout onnx2tf would change.

    onnx2tf fails on Constant nodes with list attributes, and on weights that pass through a Transpose.
    """
    model = ir.load(file)
    fold_constants(model, input_size_limit=sys.maxsize, output_size_limit=sys.maxsize)
    RemoveUnusedNodesPass()(model)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    ir.save(model, file)
    inputs = [value for value in model.graph.inputs if value.name not in model.graph.initializers]
    return [str(value.name) for value in inputs if value.shape is not None and value.shape.rank() > 2]


if __name__ == "__main__":
    _convert(*sys.argv[1:])
