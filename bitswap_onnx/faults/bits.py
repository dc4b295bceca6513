"""Bits of array elements: a table of element formats, and vectorised edits on unsigned views.

Bit 0 is the least significant bit of the stored element. Nothing here converts through a float, so NaN payloads, -0 and
subnormals keep every bit.
"""

import math
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.errors import FaultListError
from bitswap_onnx.faults.fault import Kind
from bitswap_onnx.faults.numerals import real

Bits = NDArray[np.unsignedinteger[Any]]

_HEX = re.compile(r"0[xX][0-9a-fA-F]+")
_INTEGER = re.compile(r"[+-]?[0-9]{1,20}")


@dataclass(frozen=True)
class BitFormat:
    """The bit layout of one dtype: ``width`` bits; the bits ``exponent`` hold the exponent (empty for integers).

    An array has elements of fewer than eight bits in a byte each, at its low end; a model stores them packed.
    """

    name: str
    dtype: np.dtype[Any]
    exponent: range
    signed: bool = True

    @cached_property
    def width(self) -> int:
        """Bits per element."""
        return int(self.limits.bits)

    @cached_property
    def limits(self) -> Any:
        """The range of the format, with ``bits``, ``min`` and ``max`` (the largest finite number), as numpy has it."""
        limits: Any = ml_dtypes.finfo if self.is_float else ml_dtypes.iinfo
        return limits(self.dtype)

    @property
    def view(self) -> np.dtype[Any]:
        """The unsigned dtype of the same size in an array."""
        return np.dtype(f"u{self.dtype.itemsize}")

    @property
    def is_float(self) -> bool:
        """Whether the format has an exponent."""
        return len(self.exponent) > 0

    def bit_class(self, bit: int) -> str:
        """Return ``sign``, ``exponent`` or ``mantissa`` for a bit of a float, ``sign`` or ``integer`` for others."""
        if self.signed and bit == self.width - 1:
            return "sign"
        if not self.is_float:
            return "integer"
        return "exponent" if bit in self.exponent else "mantissa"


def _formats(*names: str, exponent: range = range(0), signed: bool = True) -> dict[str, BitFormat]:
    return {name: BitFormat(name, np.dtype(getattr(ml_dtypes, name, name)), exponent, signed) for name in names}


#: Every element format that faults can hit, by name. Exponent ranges: IEEE 754; bfloat16 is float32's upper half; those of
#: 8 and 4 bits: OCP's 8-bit floating point and microscaling formats, and the variants with one zero (fnuz).
FORMATS: dict[str, BitFormat] = {
    **_formats("float16", exponent=range(10, 15)),
    **_formats("bfloat16", exponent=range(7, 15)),
    **_formats("float32", exponent=range(23, 31)),
    **_formats("float64", exponent=range(52, 63)),
    **_formats("int8", "int16", "int32", "int64"),
    **_formats("uint8", "uint16", signed=False),
    **_formats("int2", "int4"),
    **_formats("uint2", "uint4", signed=False),
    **_formats("float8_e4m3fn", "float8_e4m3fnuz", exponent=range(3, 7)),
    **_formats("float8_e5m2", "float8_e5m2fnuz", exponent=range(2, 7)),
    **_formats("float8_e8m0fnu", exponent=range(8), signed=False),
    **_formats("float4_e2m1fn", exponent=range(1, 3)),
}

#: Formats that a flip node can hit, in a value that the model computes.
NEURON_FORMATS = ("float16", "bfloat16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64")

BIT_CLASSES = ("sign", "exponent", "mantissa", "integer")


def to_bits(array: NDArray[Any]) -> Bits:
    """Return the elements of ``array``, of a dtype of `FORMATS`, as unsigned integers: a view of the same shape."""
    return array.view(FORMATS[array.dtype.name].view)


def from_bits(bits: Bits, fmt: BitFormat) -> NDArray[Any]:
    """Return unsigned ``bits`` as elements of ``fmt`` (a view of the same shape)."""
    return bits.view(fmt.dtype)


def edit(bits: Bits, kind: Kind, operand: int | Bits) -> Bits:
    """Return ``bits`` after a fault of ``kind``, element by element.

    ``operand`` is the bit number for flip, stuck_at_0 and stuck_at_1, the XOR mask for mask and the new bit pattern for
    set: one number, or an array that broadcasts against ``bits``. Callers check that numbers fit the width.
    """
    unsigned = bits.dtype.type
    number = np.asarray(operand).astype(bits.dtype)
    match kind:
        case Kind.FLIP:
            result = bits ^ (unsigned(1) << number)
        case Kind.STUCK_AT_0:
            result = bits & ~(unsigned(1) << number)
        case Kind.STUCK_AT_1:
            result = bits | (unsigned(1) << number)
        case Kind.MASK:
            result = bits ^ number
        case Kind.SET:
            result = np.broadcast_to(number, bits.shape).copy()
    return np.asarray(result, dtype=bits.dtype)


def edit_one(bits: int, kind: Kind, operand: int, fmt: BitFormat) -> int:
    """Return one element's bits after a fault: `edit` for Python integers."""
    return int(edit(np.array([bits], fmt.view), kind, operand)[0])


def parse_pattern(text: str) -> int | None:
    """Return the number of a ``0x...`` bit pattern, None for any other text."""
    return int(text, 16) if _HEX.fullmatch(text) else None


def is_number(text: str) -> bool:
    """Whether ``text`` is a number that a ``set`` fault may have: in ASCII digits, or ``nan`` or ``inf``."""
    try:
        real(text)
    except ValueError:
        return False
    return True


def encode(text: str, fmt: BitFormat) -> int:
    """Return the bit pattern of ``text``, a number or a ``0x...`` pattern, in ``fmt``.

    Numbers are read as float64 and rounded to the nearest element of a float format, ties to even. Raises
    FaultListError for a pattern wider than the format, for text that is neither a number nor a pattern, for a finite
    number beyond the range, for an infinity or NaN in a format without it, and for a fraction in an integer format.
    """
    pattern = parse_pattern(text)
    if pattern is not None:
        if pattern >> fmt.width:
            raise FaultListError(f"value {text[:40]} does not fit the {fmt.width} bits of {fmt.name}")
        return pattern
    if not is_number(text):
        raise FaultListError(f"value {text[:40]!r} is neither a number nor a 0x bit pattern")
    return _encode_float(text, fmt) if fmt.is_float else _encode_integer(text, fmt)


def _encode_float(text: str, fmt: BitFormat) -> int:
    number = float(text)
    with np.errstate(all="ignore"):
        element, infinity = np.array([number, math.inf]).astype(fmt.dtype)
    bits = int(to_bits(np.array([element]))[0])
    if math.isnan(number) or "inf" in text.lower():
        if not (np.isnan(element) if math.isnan(number) else np.isinf(element)):
            raise FaultListError(f"value {text[:40]}: {fmt.name} has no such number")
        return bits
    saturates = not np.isinf(infinity) and abs(number) > float(fmt.limits.max)
    if np.isfinite(element) and not saturates:
        return _nearest_of_neighbours(number, bits, fmt)
    hint = "; for infinity, write inf" if np.isinf(infinity) else ""
    raise FaultListError(f"value {text[:40]} is beyond the range of {fmt.name}{hint}")


def _nearest_of_neighbours(number: float, bits: int, fmt: BitFormat) -> int:
    """Return the element nearest to ``number`` among ``bits`` and its neighbours, since some casts round twice."""
    magnitude = bits & ~(1 << (fmt.width - 1)) if fmt.signed else bits
    near = [bits + step for step in (0, -1, 1) if magnitude + step >= 0 and math.isfinite(decode(bits + step, fmt))]
    return min(near, key=lambda pattern: (abs(decode(pattern, fmt) - number), pattern & 1))


def _encode_integer(text: str, fmt: BitFormat) -> int:
    limits = fmt.limits
    if not _INTEGER.fullmatch(text) or not limits.min <= int(text) <= limits.max:
        raise FaultListError(f"value {text[:40]} is no {fmt.name} (a whole number from {limits.min} to {limits.max})")
    return int(text) % (1 << fmt.width)


def decode(bits: int, fmt: BitFormat) -> float | int:
    """Return the value of one bit pattern as a Python number (exact for every format)."""
    value: float | int = from_bits(np.array([bits], fmt.view), fmt)[0].item()
    return value


def format_value(bits: int, fmt: BitFormat) -> str:
    """Return the value of one bit pattern as the shortest text that reads back to the same element."""
    return str(from_bits(np.array([bits], fmt.view), fmt)[0])


def hex_bits(bits: int, fmt: BitFormat) -> str:
    """Return a bit pattern as ``0x`` and one hex digit per four bits of the format, or less."""
    return f"0x{bits:0{-(-fmt.width // 4)}x}"
