"""Rewrite: a model and edits of its stored tensors → a new model. The clean model is never changed."""

import onnx

from bitswap_onnx.errors import ModelError
from bitswap_onnx.faults.bits import to_bits
from bitswap_onnx.graph.edits import WeightEdits
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.tensors import read_tensor, stored_tensors, write_tensor

_INLINE_LIMIT = 1 << 30


def rewrite(model: Model, edits: WeightEdits) -> Model:
    """Return a new model that differs from ``model`` in exactly the bits that ``edits`` names.

    Each mask is XORed onto the stored bits of its element. An edited tensor that was external becomes part of the new
    model's file; other external tensors stay where they are. Raises ModelError for an edited external tensor of more
    than 1 GiB, since an ONNX file cannot exceed 2 GiB.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    tensors = stored_tensors(proto)
    for key, changes in edits.items():
        tensor = tensors[key]
        elements = read_tensor(tensor, model.folder)
        if tensor.data_location == onnx.TensorProto.EXTERNAL and elements.nbytes > _INLINE_LIMIT:
            raise ModelError(
                f"{model.name}: expected at most 1 GiB for a tensor with faults in external data, found "
                f"{elements.nbytes} bytes for {key}; leave its faults out"
            )
        faulty = elements.copy(order="C")
        bits = to_bits(faulty).reshape(-1)
        for element, mask in changes:
            bits[element] ^= bits.dtype.type(mask)
        write_tensor(tensor, faulty)
    return Model(proto, model.name, model.folder, sha256="")
