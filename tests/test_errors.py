"""Messages show a user's text on one line, without control characters."""

import pytest

from bitswap_onnx.errors import BitswapError, ControlFailedError, printable


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
