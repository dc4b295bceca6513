"""A table of operators: which rows of its inputs a row sees, and whether a value's place in memory matters.

An operator that is not in the table is taken to be one whose rows see each other, and no model is cut around it.
"""

from dataclasses import dataclass
from enum import Enum


class Place(Enum):
    """Whether a value's bits depend on its place in memory."""

    #: They do not: each element is moved, compared, computed with integers or by one operation that IEEE 754 rounds, so
    #: that every instruction gives the same bits.
    FREE = "free"
    #: They may: the kernel chooses the order of sums and products, perhaps another one for the last rows or columns of
    #: a tile. Then it does so for all values there, so a check with golden values shows it.
    ORDERED = "ordered"
    #: They may, for some values only: the vector body of a kernel and its scalar tail approximate differently. They may
    #: also differ in cases that IEEE 754 leaves open: the sign of the larger of 0 and -0, NaN in a maximum, a number
    #: that an integer cannot hold.
    ROUNDED = "rounded"


@dataclass(frozen=True, slots=True)
class Operator:
    """The known facts of an operator; ``rows`` is the name of its rule in `bitswap_onnx.graph.row_rules`."""

    rows: str
    place: Place


#: (rule for rows, place, operators). An entry holds for all kernels of an operator, of every type and version.
_ROWS_OF_THE_TABLE: tuple[tuple[str, Place, str], ...] = (
    # one element of the output from the same element of each input, broadcast
    (
        "elementwise",
        Place.FREE,
        "Abs Neg Sign Ceil Floor Round Not And Or Xor BitwiseAnd BitwiseOr BitwiseXor BitwiseNot",
    ),
    ("elementwise", Place.FREE, "BitShift Equal Greater GreaterOrEqual Less LessOrEqual IsNaN IsInf Where Relu Clip"),
    ("elementwise", Place.FREE, "ThresholdedRelu Add Sub Mul Div Sqrt Reciprocal LeakyRelu PRelu Mod"),
    ("elementwise", Place.FREE, "BitCast Identity"),
    ("elementwise", Place.ROUNDED, "Cast"),
    ("first", Place.ROUNDED, "CastLike"),
    (
        "elementwise",
        Place.ROUNDED,
        "Max Min Sum Mean Pow Exp Log Sin Cos Tan Asin Acos Atan Sinh Cosh Tanh Asinh Acosh",
    ),
    ("elementwise", Place.ROUNDED, "Atanh Erf Sigmoid HardSigmoid HardSwish Softplus Softsign Elu Selu Celu Mish Gelu"),
    ("elementwise", Place.ROUNDED, "Shrink Swish ScaledTanh ParametricSoftplus Affine"),
    ("elementwise", Place.ROUNDED, "com.microsoft:Gelu com.microsoft:FastGelu com.microsoft:QuickGelu"),
    (
        "elementwise",
        Place.ROUNDED,
        "com.microsoft:BiasGelu com.microsoft:QLinearLeakyRelu com.microsoft:QLinearSigmoid",
    ),
    ("elementwise", Place.ROUNDED, "com.microsoft:QLinearAdd com.microsoft:QLinearMul com.microsoft:QLinearWhere"),
    # the first input's elements, with parameters that all of them share
    ("scaled", Place.ROUNDED, "QuantizeLinear DequantizeLinear BatchNormalization"),
    ("scaled", Place.ROUNDED, "com.microsoft:QuantizeLinear com.microsoft:DequantizeLinear"),
    ("first", Place.FREE, "Dropout"),
    # elements moved, none computed
    ("reshape", Place.FREE, "Reshape Flatten Squeeze Unsqueeze"),
    ("move", Place.FREE, "Slice Pad Tile Concat Split DepthToSpace SpaceToDepth"),
    ("transpose", Place.FREE, "Transpose"),
    ("expand", Place.FREE, "Expand"),
    ("gather", Place.FREE, "Gather"),
    ("gather_elements", Place.FREE, "GatherElements"),
    ("move", Place.FREE, "GatherND ScatterND ScatterElements Scatter"),
    ("same", Place.FREE, "Trilu"),
    ("shape", Place.FREE, "Shape"),
    ("size", Place.FREE, "Size"),
    ("filled", Place.FREE, "ConstantOfShape EyeLike"),
    ("all", Place.FREE, "Range"),
    ("filled", Place.FREE, "Constant"),
    ("one_hot", Place.FREE, "OneHot"),
    # along axes
    ("along_axis", Place.ROUNDED, "Softmax LogSoftmax Hardmax"),
    ("along_axis", Place.ORDERED, "CumSum CumProd LpNormalization"),
    ("along_axis", Place.FREE, "TopK"),
    ("arg", Place.FREE, "ArgMax ArgMin"),
    ("reduce", Place.ROUNDED, "ReduceMax ReduceMin"),
    ("reduce", Place.ORDERED, "ReduceSum ReduceMean ReduceProd ReduceL1 ReduceL2 ReduceSumSquare"),
    ("reduce", Place.ROUNDED, "ReduceLogSum ReduceLogSumExp"),
    ("behind_axis", Place.ROUNDED, "LayerNormalization RMSNormalization SimplifiedLayerNormalization"),
    ("moments", Place.ROUNDED, "MeanVarianceNormalization"),
    # whole samples: the first axis is the batch
    ("samples", Place.ROUNDED, "MaxPool GlobalMaxPool"),
    (
        "samples",
        Place.ORDERED,
        "Conv ConvTranspose ConvInteger QLinearConv AveragePool GlobalAveragePool LpPool GlobalLpPool",
    ),
    (
        "samples",
        Place.ROUNDED,
        "LRN InstanceNormalization GroupNormalization Resize Upsample GridSample DeformConv Col2Im",
    ),
    ("samples", Place.ROUNDED, "Attention RotaryEmbedding"),
    ("samples", Place.ROUNDED, "com.microsoft:Attention com.microsoft:MultiHeadAttention com.microsoft:QAttention"),
    ("samples", Place.ROUNDED, "com.microsoft:SkipLayerNormalization com.microsoft:SkipSimplifiedLayerNormalization"),
    ("samples", Place.ROUNDED, "com.microsoft:QLinearSoftmax com.microsoft:GridSample"),
    ("samples", Place.ORDERED, "com.microsoft:FusedConv com.microsoft:QLinearConv com.microsoft:NhwcMaxPool"),
    ("samples", Place.ORDERED, "com.microsoft:QLinearAveragePool com.microsoft:QLinearGlobalAveragePool"),
    # products
    ("matmul", Place.ORDERED, "MatMul MatMulInteger QLinearMatMul"),
    ("matmul", Place.ORDERED, "com.microsoft:MatMulIntegerToFloat com.microsoft:MatMulNBits"),
    ("gemm", Place.ORDERED, "Gemm com.microsoft:FusedGemm com.microsoft:QGemm"),
    ("einsum", Place.ORDERED, "Einsum"),
    ("recurrent", Place.ROUNDED, "LSTM GRU RNN"),
    # classical models: one row per input
    ("samples", Place.ROUNDED, "ai.onnx.ml:Scaler ai.onnx.ml:Normalizer ai.onnx.ml:Imputer ai.onnx.ml:Binarizer"),
    ("samples", Place.ROUNDED, "ai.onnx.ml:LinearClassifier ai.onnx.ml:LinearRegressor ai.onnx.ml:SVMClassifier"),
    ("samples", Place.ROUNDED, "ai.onnx.ml:SVMRegressor ai.onnx.ml:TreeEnsemble ai.onnx.ml:TreeEnsembleClassifier"),
    ("samples", Place.ROUNDED, "ai.onnx.ml:TreeEnsembleRegressor ai.onnx.ml:OneHotEncoder ai.onnx.ml:LabelEncoder"),
    ("samples", Place.FREE, "ai.onnx.ml:ArrayFeatureExtractor ai.onnx.ml:FeatureVectorizer"),
    # rows that see each other: the range of the whole batch
    ("all", Place.ROUNDED, "DynamicQuantizeLinear"),
    ("all", Place.ROUNDED, "com.microsoft:DynamicQuantizeMatMul com.microsoft:DynamicQuantizeLSTM"),
)

#: Name with domain → the known facts of an operator; operators of ONNX itself have no prefix.
OPERATORS: dict[str, Operator] = {
    name: Operator(rows, place) for rows, place, names in _ROWS_OF_THE_TABLE for name in names.split()
}

#: Operators whose results are random in every run.
RANDOM = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")
)


_QUANTIZED = frozenset(
    ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "QGemm")
)


def is_quantized(op_type: str) -> bool:
    """Whether an operator computes with, makes or reads quantized numbers."""
    return op_type in _QUANTIZED or op_type.startswith(("QLinear", "MatMulInteger", "DynamicQuantize", "QAttention"))


def operator(domain: str, op_type: str) -> Operator | None:
    """Return the known facts of an operator, None if it is not in the table."""
    return OPERATORS.get(op_type if domain in ("", "ai.onnx") else f"{domain}:{op_type}")
