"""Rewrite: a model and what to change in its stored tensors → a new model. The clean model is never changed."""

import onnx

from bitswap_onnx.errors import ModelError
from bitswap_onnx.faults.bits import to_bits
from bitswap_onnx.graph.edits import WeightEdits
from bitswap_onnx.graph.model import Model, read_tensor, stored_tensors, write_tensor

_INLINE_LIMIT = 1 << 30


def rewrite(model: Model, edits: WeightEdits) -> Model:
    """Return a new model that differs from ``model`` in exactly the bits that ``edits`` names.

    Each mask is XORed onto its element's stored bits. A tensor that was external becomes part of the new model's own
    file, the others stay where they are. Raises ModelError for an external tensor over 1 GiB, which no single ONNX file
    holds beside others.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    tensors = stored_tensors(proto)
    for key, changes in edits.items():
        tensor = tensors[key]
        elements = read_tensor(tensor, model.folder)
        if tensor.data_location == onnx.TensorProto.EXTERNAL and elements.nbytes > _INLINE_LIMIT:
            raise ModelError(
                f"tensor {key} has {elements.nbytes} bytes; external tensors over 1 GiB cannot be rewritten"
            )
        faulty = elements.copy(order="C")
        bits = to_bits(faulty).reshape(-1)
        for element, mask in changes:
            bits[element] ^= bits.dtype.type(mask)
        write_tensor(tensor, faulty)
    return Model(proto, model.name, model.folder, sha256="")
