"""Messages show a user's text on one line, without control characters."""

import onnx_ir as ir
import pytest

from bitswap_onnx.errors import BitswapError, ControlFailedError, one_line, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("größe: 卷積 ±0.1 %", "größe: 卷積 ±0.1 %"),
        ("a\tb\r\nc", "a b  c"),
        ("w\x1b]0;title\x07\x1b[31mX", r"w\x1b]0;title\x07\x1b[31mX"),
        ("\x00\x7f\x9b31m", r"\x00\x7f\x9b31m"),
        ("line\u2028break, \u202eright to left", r"line\u2028break, \u202eright to left"),
        ("bad name \udcff", r"bad name \udcff"),
    ],
)
def test_a_message_has_no_control_characters(text: str, shown: str) -> None:
    assert printable(text) == shown
    for kind in (BitswapError, ControlFailedError):
        assert str(kind(text)) == shown


def test_values_in_messages_of_libraries_are_named() -> None:
    """An IR value prints as ``%"input"<INT64,[N,2]>``; a user knows it by its name."""
    value = ir.Value(name="input", shape=ir.Shape(["N", 2]), type=ir.TensorType(ir.DataType.INT64))
    assert "<INT64" in str(value)
    assert one_line(ValueError(f"The value {value}\nis an output")) == "The value input is an output"
    assert one_line(ValueError("")) == "ValueError"
