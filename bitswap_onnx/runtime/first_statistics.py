"""What a model's first batch norm gets from the data, beside the running statistics that training left in it."""

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from bitswap_onnx.data.batches import batches
from bitswap_onnx.errors import ModelError
from bitswap_onnx.graph.nodes import attribute
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.graph.tensors import read_tensor
from bitswap_onnx.runtime.session import Numerics
from bitswap_onnx.runtime.submodel import open_part


@dataclass(frozen=True)
class FirstStatistics:
    """The input of a batch norm, channel by channel, in units of its running statistics.

    ``name``: the tensor of its running mean.
    ``mean_square``: mean over channels of ((x - running mean)² / running variance), 1 for the data of the training.
    ``variance``: geometric mean over channels of (variance of x / running variance), about 1 for these.
    """

    name: str
    mean_square: float
    variance: float


def first_statistics(slicer: Slicer, inputs: NDArray[np.generic], numerics: Numerics) -> FirstStatistics | None:
    """Measure ``inputs`` (n, ...) at the first batch norm; None where there is none with the statistics of a training.

    Channels whose running variance is below the norm's epsilon carry nothing and do not count.
    """
    node = next((node for node in slicer.nodes if node.op_type == "BatchNormalization"), None)
    if node is None or attribute(node, "training_mode", 0) or not {*node.input[3:5]} <= slicer.stored.keys():
        return None
    mean, variance = (_stored(slicer, name) for name in node.input[3:5])
    counted = variance >= attribute(node, "epsilon", 1e-5)
    if not counted.any() or ((mean == 0).all() and (variance == 1).all()):  # as before any training
        return None
    try:
        part = open_part(slicer.extract(slicer.inputs, (node.input[0],)), numerics)
        (source,) = slicer.inputs
        found = [part.run({source: batch})[0][:real] for batch, real in batches(inputs, numerics.batch_size)]
    except ModelError:
        return None
    channels = np.moveaxis(np.concatenate(found).astype(np.float64), 1, 0).reshape(len(mean), -1)[counted]
    mean, variance = mean[counted], variance[counted]
    spread = channels.var(axis=1) / variance
    distance = (channels.mean(axis=1) - mean) ** 2 / variance
    tiny = np.finfo(np.float64).tiny
    variance_ratio = float(np.exp(np.log(spread + tiny).mean()))
    return FirstStatistics(node.input[3], float((spread + distance).mean()), variance_ratio)


def _stored(slicer: Slicer, name: str) -> NDArray[np.float64]:
    tensor: onnx.TensorProto = slicer.stored[name]
    return read_tensor(tensor, slicer.model.folder).astype(np.float64)
