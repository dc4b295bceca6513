"""The roles of operators' inputs: they tell whether a stored tensor is a parameter, and in which role.

Operators of the standard and of ``com.microsoft`` (the fused and quantised ones of ONNX Runtime).
"""

from bitswap_onnx.faults.bits import FORMATS

#: Parameter slots of operators: input position → role. What a layer multiplies by or looks up in is ``weight``; a
#: parameter without a role of its own is ``parameter``.
_KERNEL = {1: "weight", 2: "bias"}
_AFFINE = {1: "parameter", 2: "bias"}
_QUANTIZE = {1: "scale", 2: "zero_point"}
_RECURRENT = {1: "weight", 2: "weight", 3: "bias", 5: "parameter", 6: "parameter", 7: "parameter"}


def _slots(roles: str) -> dict[int, str]:
    """Return the roles by position: one word per input, ``-`` for an input that is no parameter."""
    words = {"s": "scale", "z": "zero_point", "w": "weight", "b": "bias", "p": "parameter"}
    return {slot: words[role] for slot, role in enumerate(roles.split()) if role != "-"}


SLOT_ROLES: dict[str, dict[int, str]] = {
    "Conv": _KERNEL,
    "FusedConv": _KERNEL,
    "NhwcConv": _KERNEL,
    "ConvTranspose": _KERNEL,
    "DeformConv": {1: "weight", 3: "bias"},
    "Gemm": {0: "weight", **_KERNEL},
    "FusedGemm": {0: "weight", **_KERNEL},
    "MatMul": {0: "weight", 1: "weight"},
    "FusedMatMul": {0: "weight", 1: "weight"},
    "Einsum": dict.fromkeys(range(8), "weight"),
    "BatchNormalization": {1: "bn_scale", 2: "bn_bias", 3: "bn_mean", 4: "bn_var"},
    "LayerNormalization": _AFFINE,
    "SkipLayerNormalization": {2: "parameter", 3: "bias", 4: "bias"},
    "GroupNormalization": _AFFINE,
    "InstanceNormalization": _AFFINE,
    "RMSNormalization": {1: "parameter"},
    "SimplifiedLayerNormalization": {1: "parameter"},
    "SkipSimplifiedLayerNormalization": {2: "parameter", 3: "bias"},
    "EmbedLayerNormalization": _slots("- - w w w p b"),
    "PRelu": {1: "slope"},
    "BiasGelu": {1: "bias"},
    "FastGelu": {1: "bias"},
    "Gather": {0: "weight"},
    "GatherElements": {0: "weight"},
    "GatherND": {0: "weight"},
    "GatherBlockQuantized": _slots("w - s z"),
    "LSTM": _RECURRENT,
    "GRU": _RECURRENT,
    "RNN": _RECURRENT,
    "DynamicQuantizeLSTM": {**_RECURRENT, 8: "scale", 9: "zero_point", 10: "scale", 11: "zero_point"},
    "Attention": _KERNEL,
    "MultiHeadAttention": {3: "bias"},
    "QAttention": _slots("- w b s s - z z"),
    "QuantizeLinear": _QUANTIZE,
    "DequantizeLinear": _QUANTIZE,
    "ConvInteger": {1: "weight", 2: "zero_point", 3: "zero_point"},
    "MatMulInteger": {0: "weight", 1: "weight", 2: "zero_point", 3: "zero_point"},
    "MatMulInteger16": {0: "weight", 1: "weight"},
    "MatMulIntegerToFloat": _slots("w w s s z z b"),
    "DynamicQuantizeMatMul": _slots("- w s z b"),
    "MatMulNBits": _slots("- w s z - b"),
    "MatMulBnb4": _slots("- w s"),
    "QLinearConv": _slots("- s z w s z s z b"),
    "QLinearMatMul": _slots("w s z w s z s z"),
    "QGemm": _slots("w s z w s z b s z"),
    "QLinearAdd": _slots("p s z p s z s z"),
    "QLinearMul": _slots("p s z p s z s z"),
    "QLinearConcat": _slots("s z" + " - s z" * 32),
    "QLinearWhere": _slots("- - s z - s z s z"),
    **dict.fromkeys(
        (
            "QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", "QLinearGlobalAveragePool", "QLinearAveragePool",
            "QLinearReduceMean",
        ),
        _slots("- s z s z"),
    ),
}  # fmt: skip

#: Names of the inputs of operators with several weights, as the ONNX specification has them. They tell the weights of
#: a layer apart where the stored tensors have no telling names.
SLOT_NAMES: dict[str, dict[int, str]] = {
    op_type: {1: "W", 2: "R", 3: "B", 7: "P"} for op_type in ("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM")
}

#: Lookups: their first input is a table.
LOOKUPS = frozenset(("Gather", "GatherElements", "GatherND", "GatherBlockQuantized"))

#: Operators that a tensor may pass, by their first input, on its way to the operator that computes with it.
PASS_THROUGH = frozenset(
    (
        "Transpose", "Reshape", "Identity", "Cast", "CastLike", "Flatten", "Squeeze", "Unsqueeze", "QuantizeLinear",
        "DequantizeLinear", "Expand", "Slice", "Split", "Tile",
    )
)  # fmt: skip

#: Computations with stored tensors whose result is a measure of them, no kernel made of them. So are all ``Reduce...``.
MEASURES = frozenset(
    (
        "Shape", "Size", "ArgMax", "ArgMin", "Reciprocal", "LpPool", "GlobalLpPool", "Equal", "Less", "Greater",
        "LessOrEqual", "GreaterOrEqual", "NonZero", "IsNaN", "IsInf", "Range", "ConstantOfShape", "OneHot", "TopK",
        "EyeLike",
    )
)  # fmt: skip

#: Operators whose inputs after the first only control the computation and are no part of it.
STEERING = frozenset(
    (
        "Resize", "Upsample", "Clip", "Pad", "Range", "TopK", "OneHot", "ConstantOfShape", "NonMaxSuppression",
        "Dropout", "Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual",
    )
)  # fmt: skip

#: Parameter name in the frameworks → role, for a batch-norm that an exporter replaced by other operators.
BN_STATISTICS = {
    "running_mean": "bn_mean",
    "moving_mean": "bn_mean",
    "running_var": "bn_var",
    "moving_variance": "bn_var",
}
BN_PARAMETERS = {**BN_STATISTICS, "gamma": "bn_scale", "beta": "bn_bias", "weight": "bn_scale", "bias": "bn_bias"}


def is_table(dtype: str, rank: int) -> bool:
    """Whether a tensor that is looked up in is a table of parameters: floats or short integers, in rows."""
    return rank > 1 and dtype in FORMATS and (FORMATS[dtype].is_float or FORMATS[dtype].width <= 8)
