"""The roles of operators' inputs: they tell whether a stored tensor is a parameter, and in which role."""

#: Parameter slots of operators: input position → role. A kernel is ``weight``; a parameter without a role of its own is
#: ``parameter``.
_KERNEL = {1: "weight", 2: "bias"}
_AFFINE = {1: "parameter", 2: "bias"}
_QUANTIZE = {1: "scale", 2: "zero_point"}
_RECURRENT = {1: "weight", 2: "parameter", 3: "bias", 5: "parameter", 6: "parameter", 7: "parameter"}
SLOT_ROLES: dict[str, dict[int, str]] = {
    "Conv": _KERNEL,
    "FusedConv": _KERNEL,
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
    "PRelu": {1: "parameter"},
    "Gather": {0: "parameter"},
    "LSTM": _RECURRENT,
    "GRU": _RECURRENT,
    "RNN": _RECURRENT,
    "QuantizeLinear": _QUANTIZE,
    "DequantizeLinear": _QUANTIZE,
    "ConvInteger": {1: "weight", 2: "zero_point", 3: "zero_point"},
    "MatMulInteger": {0: "weight", 1: "weight", 2: "zero_point", 3: "zero_point"},
    "QLinearConv": dict(enumerate(["", *_QUANTIZE.values(), "weight", *(*_QUANTIZE.values(),) * 2, "bias"])),
    "QLinearMatMul": dict(enumerate(["weight", *_QUANTIZE.values(), "weight", *(*_QUANTIZE.values(),) * 2])),
}

#: Operators that a tensor may pass, by their first input, on its way to the operator that computes with it.
PASS_THROUGH = frozenset(
    (
        "Transpose", "Reshape", "Identity", "Cast", "Flatten", "Squeeze", "Unsqueeze", "QuantizeLinear",
        "DequantizeLinear", "Expand", "Slice", "Tile",
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
