"""Resolving: receipts against numpy's arithmetic, and the errors of faults that hit nothing."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitswap_onnx.errors import BitswapError, FaultListError
from bitswap_onnx.faults.fault import Fault, Injection, Kind
from bitswap_onnx.graph.model import from_proto
from bitswap_onnx.graph.resolve import Resolver, resolve
from tests.builders import build, cnn, normal

MODEL = from_proto(cnn())
RESOLVER = Resolver(MODEL)


@given(index=st.tuples(*(st.integers(0, n - 1) for n in (3, 1, 3, 3))), bit=st.integers(0, 31))
def test_flip_receipt(index: tuple[int, ...], bit: int) -> None:
    """The receipt has the element's bits as numpy reads them, and their XOR is the fault's mask."""
    weight = normal(3, 1, 3, 3, seed=0)
    (receipt,) = RESOLVER.resolve(Injection("i", (Fault("conv", index, bit),))).receipts
    assert receipt.clean_bits == weight[index].view(np.uint32)
    assert receipt.clean_bits ^ receipt.faulty_bits == receipt.mask == 1 << bit
    assert receipt.clean_value == weight[index]
    assert weight.reshape(-1)[receipt.element] == weight[index]
    assert receipt.effect == "changed"


def test_another_bit_order_is_refused() -> None:
    with pytest.raises(BitswapError, match=r"^`bit_order`: expected lsb or msb, found 'big'$"):
        resolve(MODEL, [], bit_order="big")  # type: ignore[arg-type]


@pytest.mark.parametrize(("order", "bit"), [("lsb", 31), ("msb", 0)])
def test_bit_order(order: str, bit: int) -> None:
    resolver = Resolver(MODEL, "msb" if order == "msb" else "lsb")
    (receipt,) = resolver.resolve(Injection("i", (Fault("conv", (0, 0, 0, 0), bit),))).receipts
    assert receipt.mask == 0x80000000
    assert receipt.bit == 31


@pytest.mark.parametrize(
    ("parameter", "role"),
    [(None, "weight"), ("weight", "weight"), ("bias", "bias")],
)
def test_parameters_of_a_kernel_layer(parameter: str | None, role: str) -> None:
    assert RESOLVER.find(Fault("fc", (), 0, parameter=parameter)).role == role


@pytest.mark.parametrize(
    ("parameter", "role"), [("bn_var", "bn_var"), ("running_var", "bn_var"), ("weight", "bn_scale")]
)
def test_parameters_go_by_role_or_by_name(parameter: str, role: str) -> None:
    assert RESOLVER.find(Fault("bn", (), 0, parameter=parameter)).role == role


def test_a_tensor_name_stands_for_itself() -> None:
    assert RESOLVER.find(Fault("bn.running_mean", (), 0)).role == "bn_mean"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("cvon", (0,), 0), "unknown layer 'cvon'; the nearest are conv"),
        (
            Fault("bn", (0,), 0),
            r"layer 'bn' has no weight, it has bn_scale \(weight\), bn_bias \(bias\).*column Parameter",
        ),
        (Fault("conv", (0, 0, 0), 0), r"index \(0, 0, 0\) is outside conv.weight, whose shape is \(3, 1, 3, 3\)"),
        (Fault("conv", (3, 0, 0, 0), 0), r"index \(3, 0, 0, 0\) is outside conv.weight"),
        (Fault("conv", (0, 0, 0, 0), 32), r"bit 32 is outside float32 \(0-31\) for conv.weight"),
        (Fault("conv", (0, 0, 0, 0), None, Kind.MASK, "0x0"), "the fault changes nothing"),
        (Fault("conv", (0, 0, 0, 0), None, Kind.MASK, "0x100000000"), "does not fit the 32 bits"),
        (Fault("conv", (0, 0, 0, 0), None, Kind.MASK, "12"), "a mask is written like"),
        (Fault("conv", (0, 0, 0, 0), None, Kind.SET, "1e40"), "beyond the range of float32"),
        (Fault("conv", (0, 0, 0, 0), None, Kind.SET, None), "neither a number"),
    ],
)
def test_faults_that_hit_nothing(fault: Fault, message: str) -> None:
    with pytest.raises(FaultListError, match=message):
        RESOLVER.resolve(Injection("i", (fault,)))


def test_errors_name_the_line() -> None:
    with pytest.raises(FaultListError, match=r"^faults.csv:14: bit 40 is outside float32 \(0-31\) for conv.weight$"):
        RESOLVER.resolve(Injection("i", (Fault("conv", (0, 0, 0, 0), 40, where="faults.csv:14"),)))


@pytest.mark.parametrize(
    "second",
    [
        Fault("conv", (0, 0, 0, 0), 3),
        Fault("conv", (0, 0, 0, 0), 3, Kind.STUCK_AT_1),
        Fault("conv.weight", (0, 0, 0, 0), None, Kind.MASK, "0xff"),
        Fault("conv", (0, 0, 0, 0), None, Kind.SET, "5"),
    ],
)
def test_two_faults_on_one_bit(second: Fault) -> None:
    with pytest.raises(FaultListError, match="injection i has two faults on one bit"):
        RESOLVER.resolve(Injection("i", (Fault("conv", (0, 0, 0, 0), 3), second)))


def test_two_faults_in_one_element() -> None:
    faults = (Fault("conv", (0, 0, 0, 0), 3), Fault("conv", (0, 0, 0, 0), 30), Fault("fc", (0, 0), 1))
    resolved = RESOLVER.resolve(Injection("i", faults))
    assert resolved.edits.weights == {"conv.weight": [(0, 8), (0, 1 << 30)], "fc.weight": [(0, 2)]}
    assert resolved.path == ("conv.weight", "fc.weight")


def test_satisfied_stuck_at_and_set_are_rows_without_effect() -> None:
    proto = build("net (float[N, 1] x) => (float[N, 1] y) { y = MatMul (x, W) }", W=np.zeros((1, 1), np.float32))
    resolver = Resolver(from_proto(proto))
    for fault in (
        Fault("W", (0, 0), 5, Kind.STUCK_AT_0),
        Fault("W", (0, 0), None, Kind.SET, "0"),
    ):
        resolved = resolver.resolve(Injection("i", (fault,)))
        assert not resolved.changes
        assert resolved.receipts[0].effect == "none"
    assert resolver.resolve(Injection("i", (Fault("W", (0, 0), None, Kind.SET, "-0"),))).changes


def test_a_tied_weight_says_whom_it_hits() -> None:
    proto = build(
        "net (float[N, 2] x) => (float[N, 2] y) {\n [first] a = MatMul (x, W)\n [last] y = MatMul (a, W)\n}",
        W=normal(2, 2),
    )
    (receipt,) = Resolver(from_proto(proto)).resolve(Injection("i", (Fault("first", (0, 0), 1),))).receipts
    assert receipt.effect == "changed in first;last"


def test_ambiguity_lists_the_tensors() -> None:
    proto = build(
        """net (float[N, 2] x, bool c) => (float[N, 2] y) {
            [choice] y = If (c) <
                then_branch = a () => (float[N, 2] z) <float[2, 2] W = {1, 0, 0, 1}> { [m] z = MatMul (x, W) },
                else_branch = b () => (float[N, 2] z2) <float[2, 2] W = {1, 0, 0, 1}> { [m] z2 = MatMul (x, W) }
            >
        }"""
    )
    resolver = Resolver(from_proto(proto))
    with pytest.raises(FaultListError, match=r"ambiguous: it could be y/then_branch::W, y/else_branch::W"):
        resolver.find(Fault("m", (0, 0), 1))
    assert resolver.find(Fault("y/else_branch::W", (0, 0), 1)).tensor == "y/else_branch::W"


QUANTIZED = build(
    "net (uint8[N, 2] x) => (uint8[N, 2] y) { [q] y = QLinearMatMul (x, xs, xz, w, ws, wz, ys, yz) }",
    w=np.ones((2, 2), np.uint8),
    **{name: np.float32(1) for name in ("xs", "ws", "ys")},
    **{name: np.uint8(0) for name in ("xz", "wz", "yz")},
)

#: A layer with a kernel ``proj`` and parameters called ``weight`` and ``gain``: role and name point to different tensors.
CROSSED = build(
    """net (float[N, 2] x) => (float[N, 2] y) {
        a = MatMul (x, "L.proj")
        b = Mul (a, "L.weight")
        y = Mul (b, "L.gain")
    }""",
    L__proj=normal(2, 2),
    L__weight=normal(2),
    L__gain=normal(2),
)


@pytest.mark.parametrize("proto", [cnn(), QUANTIZED, CROSSED])
def test_addresses_read_back(proto: onnx.ModelProto) -> None:
    """The names in results.csv lead a list back to the same tensor."""
    resolver = Resolver(from_proto(proto))
    for target in resolver.targets:
        layer, parameter = resolver.address(target)
        assert resolver.find(Fault(layer, (), 0, parameter=parameter)) is target
    assert len({resolver.address(target) for target in resolver.targets}) == len(resolver.targets)


def test_addresses_are_roles_where_they_can_be() -> None:
    assert {RESOLVER.address(target) for target in RESOLVER.targets} >= {("conv", "weight"), ("bn", "bn_var")}


def test_a_layer_with_several_weights_needs_a_parameter() -> None:
    proto = build(
        "net (float[S, N, 3] x) => (float[S, D, N, 2] y) { [rnn] y, h = GRU <hidden_size = 2> (x, W0, R0) }",
        W0=np.ones((1, 6, 3), np.float32),
        R0=np.ones((1, 6, 2), np.float32),
    )
    resolver = Resolver(from_proto(proto))
    with pytest.raises(FaultListError, match=r"layer 'rnn' has 2 of weight: W, R; name one in column Parameter"):
        resolver.find(Fault("rnn", (0, 0, 0), 1))
    assert resolver.find(Fault("rnn", (0, 0, 0), 1, parameter="R")).tensor == "R0"
    assert resolver.find(Fault("W0", (0, 0, 0), 1)).tensor == "W0"
    assert [resolver.address(target) for target in resolver.targets] == [("rnn", "W"), ("rnn", "R")]
