"""Runs an exported file in ONNX Runtime beside Keras, on seeded inputs, before the file appears."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.errors import ControlFailedError, one_line

#: The largest accepted difference, as a share of the largest absolute value of an output, by size of the dtype in bytes.
TOLERANCE = {2: 3e-2, 4: 1e-3, 8: 1e-6}


def check_scores(
    part: Path, inputs: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]], path: str
) -> None:
    """Compare the outputs of the file ``part`` with Keras's: all of them, and no input but Keras's.

    ``inputs`` and ``expected`` are arrays (batch, ...) by their names in the file. The largest difference may be
    `TOLERANCE` of the largest absolute value, and the top class must be Keras's, where no other is within the tolerance.

    Raises ControlFailedError, which names the file, or the model in memory, by ``path``.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(part, options, providers=["CPUExecutionProvider"])
        found_inputs = [value.name for value in session.get_inputs()]
        if found_inputs != list(inputs):
            raise ControlFailedError(
                f"{path}: expected the inputs {_listed(list(inputs))}, found {_listed(found_inputs)}; nothing was written"
            )
        found = dict(zip(expected, session.run(list(expected), dict(inputs)), strict=True))
    except ControlFailedError:
        raise
    except Exception as error:  # ONNX Runtime raises classes of its own for each of its errors
        raise ControlFailedError(
            f"{path}: ONNX Runtime cannot run the exported graph: {one_line(error)}; nothing was written"
        ) from None
    for name, native in expected.items():
        if difference := _difference(native, np.asarray(found[name])):
            raise ControlFailedError(f"{path}: output {name}: {difference}; nothing was written")


def _difference(native: NDArray[Any], found: NDArray[Any]) -> str:
    """Return how an output differs from Keras's, an empty text if it does not."""
    if native.shape != found.shape:
        return f"expected shape {native.shape} as in Keras, found {found.shape}"
    wide, other = native.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(wide)
    if not np.array_equal(wide[~finite], other[~finite], equal_nan=True):
        return "NaN or Inf in other places than in Keras, on seeded inputs"
    if not finite.all():
        return ""
    bound = TOLERANCE.get(native.dtype.itemsize, TOLERANCE[8]) * max(float(np.abs(wide).max(initial=0)), 1e-6)
    largest = float(np.abs(wide - other).max(initial=0))
    if not largest <= bound:
        return f"differs from Keras by up to {largest:.3g} on seeded inputs, allowed are {bound:.3g}"
    if native.ndim == 2 and native.shape[1] > 1:
        rows = np.arange(len(wide))
        losers = wide.max(axis=1) - wide[rows, other.argmax(axis=1)] > 2 * bound
        if losers.any():
            return f"another top class than Keras for {np.count_nonzero(losers)} of {len(rows)} seeded inputs"
    return ""


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) or "none"
