"""Chains of small models, with inputs and the scores of a plain session."""

from typing import Any

import onnx
from numpy.typing import NDArray

from bitswap_onnx.graph.model import from_proto
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.graph.stages import divide
from bitswap_onnx.runtime.chain import Chain, find_chain
from bitswap_onnx.runtime.cut_rules import CutRules
from bitswap_onnx.runtime.session import Numerics, open_session
from tests.builders import normal
from tests.runtime.engines import PLAIN

COUNT = 12


def chain_of(proto: onnx.ModelProto, numerics: Numerics = PLAIN) -> tuple[Chain, NDArray[Any], NDArray[Any]]:
    """A model's chain, inputs in whole batches, and their scores by a plain session."""
    model, output = from_proto(proto), proto.graph.output[0].name
    shape = tuple(dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim[1:])
    x = normal(COUNT, *shape, seed=9)
    scores = open_session(model, numerics, output).run(x)
    slicer = Slicer(model, output, numerics.batch_size, shape)
    borders = divide(slicer, CutRules(slicer, numerics).rows_may_move)
    return find_chain(slicer, numerics, borders, x, scores), x, scores
