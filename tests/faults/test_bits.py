"""Bit edits against hand-written patterns and numpy's own views."""

import math
import struct

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitswap_onnx.errors import FaultListError
from bitswap_onnx.faults.bits import (
    FORMATS,
    decode,
    edit,
    edit_one,
    encode,
    format_value,
    from_bits,
    hex_bits,
    to_bits,
)
from bitswap_onnx.faults.fault import Kind

#: (format, clean bits, kind, operand, faulty bits), written by hand.
CASES = [
    ("float32", 0x3F800000, Kind.FLIP, 31, 0xBF800000),  # 1 → -1
    ("float32", 0x3F800000, Kind.FLIP, 30, 0x7F800000),  # 1 → inf
    ("float32", 0x3F800000, Kind.FLIP, 0, 0x3F800001),
    ("float32", 0x00000000, Kind.FLIP, 31, 0x80000000),  # 0 → -0
    ("float32", 0x7FC12345, Kind.FLIP, 3, 0x7FC1234D),  # a NaN keeps its payload
    ("float32", 0x7F812345, Kind.FLIP, 0, 0x7F812344),  # a signalling NaN stays one
    ("float32", 0x00000001, Kind.FLIP, 1, 0x00000003),  # subnormals
    ("float32", 0x3F800000, Kind.STUCK_AT_0, 23, 0x3F000000),
    ("float32", 0x3F800000, Kind.STUCK_AT_0, 0, 0x3F800000),  # already satisfied
    ("float32", 0x3F800000, Kind.STUCK_AT_1, 31, 0xBF800000),
    ("float32", 0x3F800000, Kind.MASK, 0x80000001, 0xBF800001),
    ("float32", 0x3F800000, Kind.SET, 0x7F800001, 0x7F800001),
    ("float16", 0x3C00, Kind.FLIP, 14, 0x7C00),
    ("float16", 0x3C00, Kind.FLIP, 15, 0xBC00),
    ("bfloat16", 0x3F80, Kind.FLIP, 14, 0x7F80),
    ("bfloat16", 0x3F80, Kind.FLIP, 7, 0x3F00),
    ("float64", 0x3FF0000000000000, Kind.FLIP, 63, 0xBFF0000000000000),
    ("float64", 0x3FF0000000000000, Kind.FLIP, 62, 0x7FF0000000000000),
    ("int8", 0x7F, Kind.FLIP, 7, 0xFF),
    ("uint8", 0x00, Kind.STUCK_AT_1, 7, 0x80),
    ("int16", 0x8000, Kind.FLIP, 15, 0x0000),
    ("int32", 0xFFFFFFFF, Kind.STUCK_AT_0, 31, 0x7FFFFFFF),
    ("int64", 0x8000000000000000, Kind.MASK, 0x8000000000000001, 0x0000000000000001),
    ("int4", 0x7, Kind.FLIP, 3, 0xF),
    ("uint2", 0x0, Kind.STUCK_AT_1, 1, 0x2),
    ("float8_e4m3fn", 0x38, Kind.FLIP, 6, 0x78),
]


@pytest.mark.parametrize(("name", "clean", "kind", "operand", "faulty"), CASES)
def test_edit(name: str, clean: int, kind: Kind, operand: int, faulty: int) -> None:
    assert edit_one(clean, kind, operand, FORMATS[name]) == faulty


@given(
    name=st.sampled_from(sorted(FORMATS)),
    raw=st.binary(min_size=64, max_size=64),
    kind=st.sampled_from([Kind.FLIP, Kind.STUCK_AT_0, Kind.STUCK_AT_1]),
    bit=st.integers(0, 63),
)
def test_edit_touches_one_bit_of_every_element(name: str, raw: bytes, kind: Kind, bit: int) -> None:
    """Against Python's integers; every pattern is an input, NaNs included."""
    fmt = FORMATS[name]
    bit %= fmt.width
    array = np.frombuffer(raw, fmt.dtype)
    changed = from_bits(edit(to_bits(array), kind, bit), fmt)
    size = fmt.dtype.itemsize
    for i in range(len(array)):
        before = int.from_bytes(raw[i * size : (i + 1) * size], "little")
        expected = {
            Kind.FLIP: before ^ (1 << bit),
            Kind.STUCK_AT_0: before & ~(1 << bit),
            Kind.STUCK_AT_1: before | (1 << bit),
        }[kind]
        assert int.from_bytes(changed[i].tobytes(), "little") == expected


@given(name=st.sampled_from(sorted(FORMATS)), raw=st.binary(min_size=64, max_size=64), data=st.data())
def test_mask_twice_is_no_change(name: str, raw: bytes, data: st.DataObject) -> None:
    fmt = FORMATS[name]
    bits = to_bits(np.frombuffer(raw, fmt.dtype))
    masks = np.array(
        data.draw(st.lists(st.integers(0, 2**fmt.width - 1), min_size=len(bits), max_size=len(bits))), dtype=fmt.view
    )
    assert np.array_equal(edit(edit(bits, Kind.MASK, masks), Kind.MASK, masks), bits)


def test_edit_leaves_its_input_alone() -> None:
    bits = np.array([0x3F800000], np.uint32)
    edit(bits, Kind.SET, 0)
    edit(bits, Kind.FLIP, 3)
    assert bits[0] == 0x3F800000


@pytest.mark.parametrize(
    ("text", "name", "bits"),
    [
        ("0x7fc00001", "float32", 0x7FC00001),
        ("-0", "float32", 0x80000000),
        ("1e-45", "float32", 0x00000001),
        ("inf", "float32", 0x7F800000),
        ("nan", "float32", 0x7FC00000),
        ("0.1", "float32", struct.unpack("<I", struct.pack("<f", 0.1))[0]),
        ("0.1", "float64", struct.unpack("<Q", struct.pack("<d", 0.1))[0]),
        ("0.1", "float16", struct.unpack("<H", struct.pack("<e", 0.1))[0]),
        ("1.5", "bfloat16", 0x3FC0),
        (str(1 + 2**-8 + 2**-30), "bfloat16", 0x3F81),  # through float32 it would round twice, to 0x3f80
        (str(1 + 2**-8), "bfloat16", 0x3F80),  # a tie goes to even
        ("-inf", "bfloat16", 0xFF80),
        ("-1", "int8", 0xFF),
        ("255", "uint8", 0xFF),
        ("-9223372036854775808", "int64", 0x8000000000000000),
        ("9007199254740993", "int64", 9007199254740993),  # no float64 has this value
        ("-8", "int4", 0x8),
        ("3", "uint2", 0x3),
        ("448", "float8_e4m3fn", 0x7E),
        ("-0.0625", "float8_e5m2", 0xAC),
        ("inf", "float8_e5m2", 0x7C),
        ("-1.5", "float4_e2m1fn", 0xB),
        ("0.25", "float8_e8m0fnu", 0x7D),
    ],
)
def test_encode(text: str, name: str, bits: int) -> None:
    assert encode(text, FORMATS[name]) == bits


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("0x1ffffffff", "float32", "32 bits"),
        ("1e39", "float32", "beyond the range"),
        ("70000", "float16", "beyond the range"),
        ("1e400", "float32", "beyond the range"),
        ("-1e309", "float64", "beyond the range"),
        ("9" * 5000, "int32", "whole number"),
        ("128", "int8", "from -128 to 127"),
        ("1.5", "int32", "whole number"),
        ("-1", "uint8", "from 0 to 255"),
        ("8", "int4", "from -8 to 7"),
        ("0x10", "int4", "4 bits"),
        ("500", "float8_e4m3fn", "beyond the range of float8_e4m3fn$"),
        ("inf", "float8_e4m3fn", "no such number"),
        ("7", "float4_e2m1fn", "beyond the range"),
        ("nan", "float4_e2m1fn", "no such number"),
        ("-1", "float8_e8m0fnu", "beyond the range"),
        ("one", "float32", "neither"),
        ("", "int8", "neither"),
    ],
)
def test_encode_refuses(text: str, name: str, message: str) -> None:
    with pytest.raises(FaultListError, match=message):
        encode(text, FORMATS[name])


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("float16", {15: "sign", 14: "exponent", 10: "exponent", 9: "mantissa"}),
        ("bfloat16", {15: "sign", 14: "exponent", 7: "exponent", 6: "mantissa"}),
        ("float32", {31: "sign", 30: "exponent", 23: "exponent", 22: "mantissa", 0: "mantissa"}),
        ("float64", {63: "sign", 62: "exponent", 52: "exponent", 51: "mantissa"}),
        ("int8", {7: "sign", 6: "integer"}),
        ("uint8", {7: "integer"}),
        ("int4", {3: "sign", 2: "integer"}),
        ("uint2", {1: "integer"}),
        ("float8_e4m3fn", {7: "sign", 6: "exponent", 3: "exponent", 2: "mantissa"}),
        ("float8_e5m2", {7: "sign", 6: "exponent", 2: "exponent", 1: "mantissa"}),
        ("float4_e2m1fn", {3: "sign", 2: "exponent", 1: "exponent", 0: "mantissa"}),
        ("float8_e8m0fnu", {7: "exponent", 0: "exponent"}),
    ],
)
def test_bit_class(name: str, classes: dict[int, str]) -> None:
    assert {bit: FORMATS[name].bit_class(bit) for bit in classes} == classes


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64", "float8_e5m2"])
def test_exponent_bits_are_those_of_the_format(name: str) -> None:
    """Infinity has all exponent bits and no other: the table must name exactly those."""
    fmt = FORMATS[name]
    infinity = int(to_bits(np.array([np.inf]).astype(fmt.dtype))[0])
    assert infinity == sum(1 << bit for bit in fmt.exponent)


def test_values_as_text() -> None:
    assert format_value(0x3DCCCCCD, FORMATS["float32"]) == "0.1"
    assert format_value(0x7FC00000, FORMATS["float32"]) == "nan"
    assert hex_bits(0xFF, FORMATS["int16"]) == "0x00ff"
    assert hex_bits(0x3, FORMATS["uint2"]) == "0x3"
    assert format_value(0xF, FORMATS["int4"]) == "-1"
    assert decode(0x3DCCCCCD, FORMATS["float32"]) == float(np.float32(0.1))
    assert math.copysign(1, decode(0x8000, FORMATS["bfloat16"])) == -1
    assert FORMATS["bfloat16"].dtype == ml_dtypes.bfloat16
